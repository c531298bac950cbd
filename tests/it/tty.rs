//! Terminals: what a person at one sees and types, and what becomes of it when something breaks.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use nix::sys::signal::{Signal, kill};

use crate::{capture::DEADLINE, env::Env, fixture::BUSY, pty::Pty};

/// What the container's shell shows when it waits: typed keys cannot be mistaken for it.
const PS1: &str = "-e PS1='ready> '";

#[track_caller]
fn busy() -> Env {
    Env::with("busy", BUSY)
}

/// Until the caller has its terminal back as it was.
#[track_caller]
fn await_cooked(pty: &Pty) {
    let deadline = Instant::now() + DEADLINE;
    while pty.is_raw() {
        assert!(Instant::now() < deadline, "the terminal stays raw");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_shell_on_a_terminal_prompts_echoes_and_ends_with_its_code() {
    let env = busy();
    let run = env.pty(&format!("run -it --rm {PS1} busy sh"), |pty| {
        pty.expect("ready> ");
        assert!(pty.is_raw());
        pty.send("tty; test -t 1 && echo is''tty\n");
        pty.expect("tty; test -t 1 && echo is''tty\r\n/dev/pts/0\r\nistty\r\nready> ");
        pty.send("exit 5\n");
    });
    run.exits(5);
}

#[test]
fn the_terminal_is_as_before_once_the_container_has_ended() {
    let env = busy();
    let mut pty = Pty::spawn("run", &env.command(&format!("run -it --rm {PS1} busy sh")));
    pty.expect("ready> ");
    assert!(pty.is_raw());
    pty.send("echo bye; exit\n");
    pty.expect("bye\r\n");
    await_cooked(&pty);
    pty.finish().exits(0);
}

#[test]
fn ctrl_c_is_the_containers() {
    let env = busy();
    let line = format!(
        "run -it --rm {PS1} busy sh -c 'trap \"echo caught; exit 7\" INT; echo up; while :; do sleep 1; done'"
    );
    let run = env.pty(&line, |pty| {
        pty.expect("up\r\n");
        pty.send("\x03");
        pty.expect("caught");
    });
    run.exits(7);
}

#[test]
fn a_signal_ends_the_container_and_the_terminal_is_restored() {
    let env = busy();
    let mut pty = Pty::spawn("run", &env.command("run -it --name c busy sh -c 'trap \"exit 9\" TERM; echo up; while :; do usleep 1000; done'"));
    pty.expect("up\r\n");
    assert!(pty.is_raw());
    kill(pty.pid(), Signal::SIGTERM).unwrap();
    await_cooked(&pty);
    pty.finish().exits(9);
    env.run("wait c").prints("9\n");
}

#[test]
fn a_terminal_has_the_callers_size_and_follows_it() {
    let env = busy();
    let line = "run -it --rm busy sh -c 'stty size; trap \"stty size\" WINCH; echo up; read x; read x; exit 3'";
    let run = env.pty(line, |pty| {
        pty.expect("24 80\r\nup\r\n");
        pty.resize(40, 100);
        pty.expect("40 100\r\n");
        pty.send("\n\n");
    });
    run.exits(3);
}

#[test]
fn detach_keys_leave_the_container_running_and_start_comes_back() {
    let env = busy();
    let run = env.pty(&format!("run -it --name c {PS1} busy sh"), |pty| {
        pty.expect("ready> ");
        pty.send("X=kept\n");
        pty.expect("ready> ");
        pty.send("\x10\x11");
    });
    run.exits(0);
    env.run("exec c echo alive").prints("alive\n");
    env.run("stop -t 0 c").exits(0);
    let run = env.pty("start -ai c", |pty| {
        pty.expect("ready> ");
        pty.send("echo \"[$X]\"; exit 4\n");
        pty.expect("\n[]\r\n");
    });
    run.exits(4);
}

#[test]
fn other_detach_keys_are_obeyed_and_the_usual_ones_pass() {
    let env = busy();
    let line = "run -it --name c --detach-keys ctrl-a,d busy sh -c 'stty raw -echo; echo up; dd bs=1 count=3 2>/dev/null | busybox od -An -tx1; echo; read x'";
    let run = env.pty(line, |pty| {
        pty.expect("up");
        pty.send("\x10\x11\x01x");
        pty.expect("10 11 01");
        pty.send("\x01d");
    });
    run.exits(0);
    env.run("exec c true").exits(0);
}

#[test]
fn exec_has_a_terminal_of_its_own() {
    let env = busy();
    env.run("run -d --name c busy sleep 1000").exits(0);
    let run = env.pty(&format!("exec -it {PS1} c sh"), |pty| {
        pty.expect("ready> ");
        assert!(pty.is_raw());
        pty.send("stty size; tty\n");
        pty.expect("24 80\r\n/dev/pts/0\r\nready> ");
        pty.send("exit 6\n");
    });
    run.exits(6);
}

#[test]
fn a_terminal_without_input_is_only_looked_at() {
    let env = busy();
    let run =
        env.pty("run -t --rm busy sh -c 'test -t 0 && test -t 1 && echo both; exit 2'", |pty| {
            pty.expect("both\r"); // and the caller's own line discipline adds to the newline
            assert!(!pty.is_raw());
        });
    run.exits(2);
    // And needs none on the caller's side.
    env.run("run -t --rm busy sh -c 'tty; echo a'").prints("/dev/pts/0\r\na\r\n");
}

#[test]
fn input_without_a_terminal_is_what_the_line_discipline_gives() {
    let env = busy();
    let run =
        env.pty("run -i --rm busy sh -c 'test -t 0 || echo pipe; read x; echo got $x'", |pty| {
            pty.expect("pipe\r\n");
            assert!(!pty.is_raw());
            pty.send("wordx\x7f\n");
            pty.expect("got word\r\n");
        });
    run.exits(0);
}

#[test]
fn a_terminal_needs_a_terminal() {
    let env = busy();
    env.run("run -it --rm busy true").fails_with(125, "the input device is not a TTY");
}

#[test]
fn a_container_that_closes_its_terminal_goes_on_and_may_open_it_again() {
    let env = busy();
    let fifo = env.path("go");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    let script =
        "echo before; exec 0<&- 1>&- 2>&-; read x < /go; echo after > /dev/console; exit 8";
    let line = format!("run -it --rm -v {}:/go busy sh -c '{script}'", fifo.display());
    let run = env.pty(&line, |pty| {
        pty.expect("before\r\n");
        fs::write(&fifo, "x\n").unwrap();
        pty.expect("after\r\n");
    });
    run.exits(8);
}

#[test]
fn much_output_through_a_terminal_arrives_whole() {
    let env = busy();
    let run = env.run("run -t --rm busy seq 200000").exits(0);
    let lines: Vec<&str> = run.stdout.split("\r\n").collect();
    assert_eq!(lines.len(), 200_001);
    assert!(lines[..200_000].iter().zip(1..).all(|(line, n)| line.parse() == Ok(n)));
}
