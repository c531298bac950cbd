/* order: which instructions of an executable a command and its descendants run. Part of
 * scripts/order.
 *
 *   order BINARY CMD…    prints each address of BINARY that was executed, once, in hex
 *
 * BINARY is not relocated when it is started (static, not position-independent), so that addresses
 * are those of its symbols. Every process that runs it is single-stepped; the others just run. */
#define _GNU_SOURCE
#include <elf.h>
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PIDS = 1 << 22, TEXT = 64 << 20, BASE = 0x200000 };
static char stepped[PIDS], known[PIDS];
static unsigned char seen[TEXT / 8];
static struct stat binary;

static int runs_binary(pid_t pid) {
    char path[64];
    struct stat exe;
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    return !stat(path, &exe) && exe.st_dev == binary.st_dev && exe.st_ino == binary.st_ino;
}

static void note(pid_t pid) {
    struct user_regs_struct regs;
    struct iovec all = {&regs, sizeof regs};
    if (ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &all)) return;
    unsigned long at = regs.rip - BASE;
    if (at >= TEXT || seen[at / 8] & 1 << at % 8) return;
    seen[at / 8] |= 1 << at % 8;
    printf("%lx\n", (unsigned long)regs.rip);
}

int main(int argc, char **argv) {
    if (argc < 3) errx(2, "usage: order BINARY CMD...");
    if (stat(argv[1], &binary)) err(1, "%s", argv[1]);
    pid_t first = fork();
    if (first < 0) err(1, "fork");
    if (first == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execvp(argv[2], argv + 2);
        err(127, "%s", argv[2]);
    }
    for (;;) {
        int status, code = 0;
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0 && errno == ECHILD) return 0;
        if (pid < 0) err(1, "wait");
        if (!WIFSTOPPED(status)) {
            /* What it left behind goes on untraced. */
            if (pid == first) return 0;
            known[pid] = stepped[pid] = 0;
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16;
        if (!known[pid]) {
            known[pid] = 1;
            long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC;
            ptrace(PTRACE_SETOPTIONS, pid, 0, options);
            stepped[pid] = runs_binary(pid);
        } else if (event == PTRACE_EVENT_EXEC) {
            stepped[pid] = runs_binary(pid);
        } else if (event == 0 && signal != SIGTRAP) {
            code = signal;
        }
        if (stepped[pid]) note(pid);
        /* A group-stop's SIGSTOP is not passed on: nothing that is traced here stops itself. */
        if (code == SIGSTOP) code = 0;
        ptrace(stepped[pid] ? PTRACE_SINGLESTEP : PTRACE_CONT, pid, 0, code);
    }
}
