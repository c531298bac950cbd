/* floor: what the kernel itself takes, and a stopwatch. Part of scripts/bench.
 *
 *   floor run ROOTFS WORK CMD…    CMD as the init of new user (unless root), mount, pid, network,
 *                                 uts, ipc and cgroup namespaces, over an overlay of ROOTFS whose
 *                                 upper half lives in WORK/PID and goes with it
 *   floor exec PID CMD…           CMD in all of PID's namespaces
 *   floor time RUNS NAME LINE …   each LINE in turn, RUNS times; prints NAME, wall and CPU
 *                                 microseconds and the memory in KiB of the largest process
 *                                 of each run, tab separated
 *   floor many par|seq N LINE     LINE N times, side by side or one after another
 *
 * A LINE is split at blanks, and {} in it becomes a number that differs from run to run. That of
 * `many`, which stands inside another, is split at `|` and has @ for the number. CPU time
 * includes processes that LINE leaves behind, if they end within two seconds: that is how
 * engines with a monitor are charged for it. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

#define MUST(call) do { if ((call) < 0) err(125, "%s", #call); } while (0)

/* ------------------------------------------------------------------------------- run and exec */

static const struct { const char *name; int major, minor; } devices[] = {
    {"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
};

static void bind_device(const char *name) {
    char from[64], to[64];
    snprintf(from, sizeof from, "/dev/%s", name);
    snprintf(to, sizeof to, "dev/%s", name);
    MUST(close(open(to, O_CREAT | O_WRONLY | O_CLOEXEC, 0666)));
    MUST(mount(from, to, NULL, MS_BIND, NULL));
}

static void make_devices(int rootless) {
    MUST(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        char path[64];
        snprintf(path, sizeof path, "dev/%s", devices[i].name);
        if (rootless) bind_device(devices[i].name);
        else {
            MUST(mknod(path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)));
            MUST(chmod(path, 0666));
        }
    }
    MUST(symlink("/proc/self/fd", "dev/fd"));
    MUST(symlink("/proc/self/fd/0", "dev/stdin"));
    MUST(symlink("/proc/self/fd/1", "dev/stdout"));
    MUST(symlink("/proc/self/fd/2", "dev/stderr"));
    MUST(symlink("pts/ptmx", "dev/ptmx"));
    MUST(mkdir("dev/pts", 0755));
    MUST(mkdir("dev/mqueue", 0755));
    MUST(mkdir("dev/shm", 0755));
    MUST(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"));
    MUST(mount("mqueue", "dev/mqueue", "mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL));
    MUST(mount("shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=1777,size=65536k"));
}

static void loopback_up(void) {
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    MUST(fd);
    MUST(ioctl(fd, SIOCSIFFLAGS, &request));
    MUST(close(fd));
}

static void be_init(const char *rootfs, const char *work, int rootless, char **cmd) {
    char options[8192];
    if (rootless) {
        MUST(setgid(0));
        MUST(setuid(0));
    }
    MUST(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
    MUST(chdir(work));
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=upper,workdir=work%s", rootfs, rootless ? ",userxattr" : "");
    MUST(mount("overlay", "merged", "overlay", 0, options));
    MUST(chdir("merged"));
    MUST(mount("proc", "proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL));
    make_devices(rootless);
    MUST(mount("sysfs", "sys", "sysfs", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, NULL));
    MUST(syscall(SYS_pivot_root, ".", "."));
    MUST(umount2(".", MNT_DETACH));
    MUST(chdir("/"));
    MUST(sethostname("floor", 5));
    loopback_up();
    MUST(unshare(CLONE_NEWCGROUP));
    execv(cmd[0], cmd);
    err(127, "exec %s", cmd[0]);
}

/* The caller's id as 0, and the subordinate range after it: newuidmap(1). */
static pid_t start_mapping(const char *program, const char *table, pid_t pid, unsigned id, const char *user) {
    char line[256], target[16], own[16], first[16], count[16];
    unsigned long from = 0, size = 0;
    FILE *file = fopen(table, "re");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, user, strlen(user)) && sscanf(line + strlen(user), ":%lu:%lu", &from, &size) == 2) break;
    if (file) fclose(file);
    if (!size) errx(125, "%s has no range for %s", table, user);
    snprintf(target, sizeof target, "%d", pid);
    snprintf(own, sizeof own, "%u", id);
    snprintf(first, sizeof first, "%lu", from);
    snprintf(count, sizeof count, "%lu", size);
    char *argv[] = {(char *)program, target, "0", own, "1", "1", first, count, NULL};
    pid_t child;
    if ((errno = posix_spawnp(&child, program, NULL, NULL, argv, environ))) err(125, "%s", program);
    return child;
}

static void expect_success(pid_t pid) {
    int status;
    MUST(waitpid(pid, &status, 0));
    if (status) exit(125);
}

static int run(const char *rootfs, const char *base, char **cmd) {
    int rootless = geteuid() != 0, gate[2], status;
    char work[4096], byte = 0;
    snprintf(work, sizeof work, "%s/%d", base, getpid());
    MUST(mkdir(work, 0755));
    int dir = open(work, O_DIRECTORY | O_CLOEXEC);
    MUST(dir);
    MUST(mkdirat(dir, "upper", 0755));
    MUST(mkdirat(dir, "work", 0755));
    MUST(mkdirat(dir, "merged", 0755));
    MUST(pipe2(gate, O_CLOEXEC));

    unsigned long flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC;
    if (rootless) flags |= CLONE_NEWUSER;
    pid_t pid = (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
    MUST(pid);
    if (pid == 0) {
        MUST(close(gate[1]));
        if (read(gate[0], &byte, 1) != 1) _exit(125);
        be_init(rootfs, work, rootless, cmd);
    }
    if (rootless) {
        const char *user = getenv("USER");
        if (!user) errx(125, "USER is not set");
        pid_t uids = start_mapping("newuidmap", "/etc/subuid", pid, getuid(), user);
        pid_t gids = start_mapping("newgidmap", "/etc/subgid", pid, getgid(), user);
        expect_success(uids);
        expect_success(gids);
    }
    MUST(write(gate[1], &byte, 1));
    MUST(waitpid(pid, &status, 0));
    /* `true` writes nothing; a command that does leaves its upper half for the caller to see. */
    unlinkat(dir, "work/work", AT_REMOVEDIR);
    for (const char *const *name = (const char *const[]){"upper", "work", "merged", NULL}; *name; name++)
        unlinkat(dir, *name, AT_REMOVEDIR);
    rmdir(work);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int join(pid_t target, char **cmd) {
    int flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP, status;
    int pidfd = (int)syscall(SYS_pidfd_open, target, 0);
    MUST(pidfd);
    if (geteuid() != 0) flags |= CLONE_NEWUSER;
    MUST(setns(pidfd, flags));
    pid_t pid = fork();
    MUST(pid);
    if (pid == 0) {
        if (flags & CLONE_NEWUSER) {
            MUST(setgid(0));
            MUST(setuid(0));
        }
        execv(cmd[0], cmd);
        err(127, "exec %s", cmd[0]);
    }
    MUST(waitpid(pid, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* --------------------------------------------------------------------------------- stopwatch */

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ll + t.tv_nsec / 1000;
}

static int64_t cpu_of_children_us(void) {
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000ll + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

/* Starts a line, its words cut at `blank`, the first `mark` in each replaced by a number. Its stdin and stdout are /dev/null. */
static pid_t start(const char *line, const char *blank, const char *mark, int number) {
    char *copy = strdup(line), *words[256], *save = NULL;
    int n = 0;
    for (char *word = strtok_r(copy, blank, &save); word && n < 255; word = strtok_r(NULL, blank, &save)) {
        char *at = strstr(word, mark);
        if (at && asprintf(&word, "%.*s%d-%d%s", (int)(at - word), word, getpid(), number, at + strlen(mark)) < 0)
            err(125, "asprintf");
        words[n++] = word;
    }
    words[n] = NULL;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    pid_t pid;
    if ((errno = posix_spawnp(&pid, words[0], &actions, NULL, words, environ))) err(125, "%s", words[0]);
    posix_spawn_file_actions_destroy(&actions);
    free(copy);
    return pid;
}

/* Of those that were waited for, and of theirs. */
static long largest_kib;

static pid_t reap(int *status, int options) {
    struct rusage usage;
    pid_t done = wait4(-1, status, options, &usage);
    if (done > 0 && usage.ru_maxrss > largest_kib) largest_kib = usage.ru_maxrss;
    return done;
}

/* Waits for one process among all that are or became our children. */
static int wait_for(pid_t pid) {
    int status;
    for (;;) {
        pid_t done = reap(&status, 0);
        if (done == pid) return status;
        if (done < 0) err(125, "wait");
    }
}

/* What a line left behind, so that its CPU time is counted and it does not disturb the next. */
static void wait_for_stragglers(void) {
    int64_t until = now_us() + 2000000;
    for (;;) {
        pid_t done = reap(NULL, WNOHANG);
        if (done < 0 || now_us() > until) return;
        if (done == 0) usleep(200);
    }
}

static int stopwatch(int runs, char **pairs) {
    static int number;
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    for (int i = 0; i < runs; i++) {
        for (char **pair = pairs; pair[0] && pair[1]; pair += 2) {
            largest_kib = 0;
            int64_t cpu = cpu_of_children_us(), begin = now_us();
            int status = wait_for(start(pair[1], " ", "{}", number++));
            int64_t wall = now_us() - begin;
            if (status) errx(1, "`%s` fails with status %#x", pair[1], status);
            wait_for_stragglers();
            printf("%s\t%lld\t%lld\t%ld\n", pair[0], (long long)wall, (long long)(cpu_of_children_us() - cpu), largest_kib);
        }
        fflush(stdout);
    }
    return 0;
}

static int many(int side_by_side, int count, const char *line) {
    pid_t pids[1024];
    int failed = 0;
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    if (count > 1024) errx(2, "at most 1024");
    for (int i = 0; i < count; i++) {
        pids[i] = start(line, "|", "@", i);
        if (!side_by_side) failed |= wait_for(pids[i]);
    }
    if (side_by_side) {
        int status, left = count;
        while (left > 0) {
            pid_t done = wait(&status);
            MUST(done);
            for (int i = 0; i < count; i++)
                if (pids[i] == done) { failed |= status; left--; }
        }
    }
    wait_for_stragglers();
    return failed ? 1 : 0;
}

int main(int argc, char **argv) {
    const char *verb = argc > 1 ? argv[1] : "";
    if (!strcmp(verb, "run") && argc > 4) return run(argv[2], argv[3], argv + 4);
    if (!strcmp(verb, "exec") && argc > 3) return join(atoi(argv[2]), argv + 3);
    if (!strcmp(verb, "time") && argc > 4) return stopwatch(atoi(argv[2]), argv + 3);
    if (!strcmp(verb, "many") && argc > 4) return many(!strcmp(argv[2], "par"), atoi(argv[3]), argv[4]);
    fprintf(stderr, "see the head of floor.c\n");
    return 2;
}
