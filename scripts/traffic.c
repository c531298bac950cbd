// traffic.c: what scripts/bench sends through networks; static, so that it runs in any container.
//
//   traffic sink PORT                        takes whatever comes, on every connection
//   traffic send ADDRESS PORT STREAMS SECS   sends as much as goes; prints Gbit/s of all streams
//   traffic http PORT                        answers each request with 200 and two bytes
//   traffic ask ADDRESS PORT CLIENTS SECS    asks again and again, on connections that stay; prints
//                                            requests/s
//   traffic open ADDRESS PORT COUNT          opens COUNT connections, one after the other, each with
//                                            one request; prints connections/s
//
// IPv4. Servers run until they are killed.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what) {
    fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int listener(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&at, sizeof at) || listen(fd, 1024)) fail("listen");
    return fd;
}

static int dial(const char *address, int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1) { errno = EINVAL; fail(address); }
    // A server that has just been started may need a moment.
    for (int tries = 0; connect(fd, (void *)&to, sizeof to); tries++) {
        if (tries == 100) fail("connect");
        close(fd);
        usleep(50000);
        fd = socket(AF_INET, SOCK_STREAM, 0);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static int sink(int port) {
    static char buffer[256 << 10];
    int fd, at = listener(port);
    signal(SIGCHLD, SIG_IGN);
    while ((fd = accept(at, 0, 0)) >= 0 || errno == EINTR) {
        if (fd >= 0 && fork() == 0) {
            while (read(fd, buffer, sizeof buffer) > 0) {}
            _exit(0);
        }
        close(fd);
    }
    fail("accept");
    return 1;
}

static int send_all(const char *address, int port, int streams, double seconds) {
    static char buffer[256 << 10];
    int results[2];
    if (pipe(results)) fail("pipe");
    for (int i = 0; i < streams; i++) {
        if (fork()) continue;
        int fd = dial(address, port);
        double begun = now(), sent = 0;
        while (now() - begun < seconds) {
            ssize_t n = write(fd, buffer, sizeof buffer);
            if (n < 0) fail("write");
            sent += n;
        }
        // Until the other side has read it all.
        shutdown(fd, SHUT_WR);
        while (read(fd, buffer, sizeof buffer) > 0) {}
        double rate = sent * 8 / 1e9 / (now() - begun);
        _exit(write(results[1], &rate, sizeof rate) != sizeof rate);
    }
    close(results[1]);
    double all = 0, rate;
    int count = 0;
    while (read(results[0], &rate, sizeof rate) == sizeof rate) all += rate, count++;
    while (wait(0) > 0) {}
    if (count != streams) return 1;
    printf("%.2f\n", all);
    return 0;
}

static const char REPLY[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
static const char REQUEST[] = "GET / HTTP/1.1\r\nHost: bench\r\n\r\n";

static int http(int port) {
    int at = listener(port), poll = epoll_create1(0), fd;
    struct epoll_event event = { .events = EPOLLIN, .data.fd = at }, ready[64];
    epoll_ctl(poll, EPOLL_CTL_ADD, at, &event);
    for (;;) {
        int n = epoll_wait(poll, ready, 64, -1);
        for (int i = 0; i < n; i++) {
            char buffer[4096];
            if (ready[i].data.fd == at) {
                int one = 1;
                if ((fd = accept(at, 0, 0)) < 0) continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event = (struct epoll_event){ .events = EPOLLIN, .data.fd = fd };
                epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
                continue;
            }
            // Requests are short and come whole.
            fd = ready[i].data.fd;
            ssize_t got = read(fd, buffer, sizeof buffer);
            if (got <= 0 || write(fd, REPLY, sizeof REPLY - 1) < 0) close(fd);
        }
    }
    return 1;
}

static int ask(const char *address, int port, int clients, double seconds) {
    int poll = epoll_create1(0);
    for (int i = 0; i < clients; i++) {
        int fd = dial(address, port);
        struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
        if (write(fd, REQUEST, sizeof REQUEST - 1) < 0) fail("write");
    }
    double begun = now(), took;
    long answered = 0;
    while ((took = now() - begun) < seconds) {
        struct epoll_event ready[64];
        int n = epoll_wait(poll, ready, 64, 1000);
        for (int i = 0; i < n; i++) {
            char buffer[4096];
            if (read(ready[i].data.fd, buffer, sizeof buffer) <= 0) fail("read");
            answered++;
            if (write(ready[i].data.fd, REQUEST, sizeof REQUEST - 1) < 0) fail("write");
        }
    }
    printf("%.0f\n", answered / took);
    return 0;
}

static int open_many(const char *address, int port, int count) {
    double begun = now();
    for (int i = 0; i < count; i++) {
        char buffer[4096];
        int fd = dial(address, port);
        // Reset at the end: 10,000 closed ones would use up the ports of one address.
        struct linger linger = { .l_onoff = 1 };
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        if (write(fd, REQUEST, sizeof REQUEST - 1) < 0 || read(fd, buffer, sizeof buffer) <= 0) fail("ask");
        close(fd);
    }
    printf("%.0f\n", count / (now() - begun));
    return 0;
}

int main(int argc, char **argv) {
    const char *verb = argc > 1 ? argv[1] : "";
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(verb, "sink") && argc == 3) return sink(atoi(argv[2]));
    if (!strcmp(verb, "http") && argc == 3) return http(atoi(argv[2]));
    if (!strcmp(verb, "send") && argc == 6) return send_all(argv[2], atoi(argv[3]), atoi(argv[4]), atof(argv[5]));
    if (!strcmp(verb, "ask") && argc == 6) return ask(argv[2], atoi(argv[3]), atoi(argv[4]), atof(argv[5]));
    if (!strcmp(verb, "open") && argc == 5) return open_many(argv[2], atoi(argv[3]), atoi(argv[4]));
    fprintf(stderr, "see the head of traffic.c\n");
    return 2;
}
