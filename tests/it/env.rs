//! What makes a test one line long: a private place, a line to run there, and what it should do.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use regex::Regex;
use tempfile::TempDir;

use crate::{
    capture::{Capture, DEADLINE},
    fixture::Image,
    needs,
    pty::Pty,
};

/// A private root and runroot. Dropping it removes the containers left and then fails the test if
/// a process, mount, cgroup or runtime file of theirs stayed.
#[derive(Debug)]
pub(crate) struct Env {
    dir: Option<TempDir>,
    cgroups_before: BTreeSet<PathBuf>,
}

impl Env {
    pub(crate) fn new() -> Self {
        // On a real filesystem, for overlay; and short, since the path of a Unix socket ends
        // after 107 bytes of which a container's take 88.
        let dir = tempfile::Builder::new().prefix("d").tempdir_in(base()).unwrap();
        // Other users' containers must be able to pass through to bind mounts.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for sub in ["r", "x"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        fs::set_permissions(dir.path().join("x"), fs::Permissions::from_mode(0o700)).unwrap();
        Self { dir: Some(dir), cgroups_before: container_cgroups() }
    }

    /// As [`new`](Self::new), with one image.
    #[track_caller]
    pub(crate) fn with(name: &str, fixture: &str) -> Self {
        let env = Self::new();
        env.image(name, fixture);
        env
    }

    fn dir(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// A path for the test's own files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// `--root`.
    pub(crate) fn root(&self) -> PathBuf {
        self.path("r")
    }

    /// `--runroot`.
    pub(crate) fn runroot(&self) -> PathBuf {
        self.path("x")
    }

    /// Writes one of the test's own files; returns its path.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Loads an image written as text (see [`crate::fixture`]).
    #[track_caller]
    pub(crate) fn image(&self, name: &str, fixture: &str) {
        self.run_with_stdin("load --quiet", Image::parse(fixture).docker_archive(name)).exits(0);
    }

    /// dhow, pointed at the private roots, knowing nothing else of this machine's user.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(dhow());
        command.args(words(line)).current_dir(self.dir()).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", self.dir()).env("TERM", "xterm");
        command.env("DHOW_ROOT", self.root()).env("DHOW_RUNROOT", self.runroot());
        // Who tests networks takes it away again.
        command.env("DHOW_NETWORK", "none");
        for key in ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "LLVM_PROFILE_FILE"] {
            if let Some(value) = env::var_os(key) {
                command.env(key, value);
            }
        }
        command
    }

    /// Runs `dhow LINE`. Words are split as a shell does, with quotes and backslashes.
    #[must_use = "say what the run should have done"]
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> Run {
        self.run_command(line, self.command(line), Vec::new())
    }

    #[must_use = "say what the run should have done"]
    #[track_caller]
    pub(crate) fn run_with_stdin(&self, line: &str, input: impl Into<Vec<u8>>) -> Run {
        self.run_command(line, self.command(line), input.into())
    }

    /// As [`run`](Self::run), with a [`command`](Self::command) that the test has changed.
    #[must_use = "say what the run should have done"]
    #[track_caller]
    pub(crate) fn run_command(&self, line: &str, command: Command, input: Vec<u8>) -> Run {
        let mut running = Running::start(line, command);
        let mut stdin = running.stdin.take().unwrap();
        // A command that does not read all of it has its reasons, and an exit code.
        thread::spawn(move || drop(stdin.write_all(&input)));
        running.finish()
    }

    /// Starts `dhow LINE` and leaves it running.
    pub(crate) fn spawn(&self, line: &str) -> Running {
        self.spawn_command(line, self.command(line))
    }

    /// As [`spawn`](Self::spawn), with a [`command`](Self::command) that the test has changed.
    pub(crate) fn spawn_command(&self, line: &str, command: Command) -> Running {
        Running::start(line, command)
    }

    /// Runs `dhow LINE` on a terminal, with `person` in front of it, until it ends.
    #[must_use = "say what the run should have done"]
    #[track_caller]
    pub(crate) fn pty(&self, line: &str, person: impl FnOnce(&mut Pty)) -> Run {
        let mut pty = Pty::spawn(line, &self.command(line));
        person(&mut pty);
        pty.finish()
    }

    /// `text` without what differs from run to run: the private directory, ids, times.
    pub(crate) fn tidy(&self, text: &str) -> String {
        static FILTERS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
            [
                (r"\b[0-9a-f]{64}\b", "[ID]"),
                (r"\b[0-9a-f]{12}\b", "[ID]"),
                (
                    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d\d:?\d\d( \w+)?|Z)?",
                    "[TIME]",
                ),
                (r"\b(Less than a|About an?|\d+) (second|minute|hour)s?\b( ago)?", "[AGO]"),
            ]
            .map(|(pattern, name)| (Regex::new(pattern).unwrap(), name))
            .into()
        });
        let text = text.replace(self.dir().to_str().unwrap(), "[DIR]");
        FILTERS.iter().fold(text, |text, (filter, name)| filter.replace_all(&text, *name).into())
    }

    /// The ids of the containers in the store, whatever state they are in.
    fn containers(&self) -> Vec<String> {
        names_in(&self.root().join("containers"))
    }

    /// Everything of this environment that outlives its containers, in words: what is there still
    /// after a moment. A monitor that has told of the end is about to be gone.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        settled(|| self.present())
    }

    /// What a directory of the store comes to hold: the files of a container that has ended may
    /// be on their way out. Sorted.
    pub(crate) fn stored(&self, dir: &str) -> Vec<String> {
        let mut names = settled(|| names_in(&self.root().join(dir)));
        names.sort();
        names
    }

    /// As [`leftovers`](Self::leftovers), at this moment.
    fn present(&self) -> Vec<String> {
        let dir = self.dir().to_str().unwrap().to_owned();
        let mut found: Vec<String> = (processes_of(&dir).iter())
            .map(|(pid, why)| format!("process {pid} ({}): {why}", command_line(*pid)))
            .collect();
        found.extend(mounts_under(&dir).into_iter().map(|line| format!("mount {line}")));
        for (tree, names) in [
            (self.root(), ["containers", "names", "staging"].as_slice()),
            (self.runroot(), &["containers"]),
        ] {
            for name in names {
                let stayed = names_in(&tree.join(name)).into_iter();
                found.extend(stayed.map(|entry| format!("{name}/{entry} in {}", tree.display())));
            }
        }
        found
    }

    /// The leftovers, and cgroups whose container nobody has.
    fn settle(&self) -> Vec<String> {
        settled(|| {
            let mut left = self.present();
            let cgroups = container_cgroups();
            let new = cgroups.difference(&self.cgroups_before);
            let lost = new.filter(|dir| is_unpopulated(dir) && !is_of_another_test(dir));
            left.extend(lost.map(|dir| format!("cgroup {}", dir.display())));
            left
        })
    }

    /// Removes the directory, whose files belong to subordinate ids when an ordinary user
    /// unpacked an image.
    fn delete(&mut self) -> Result<(), String> {
        let path = self.dir.take().unwrap().keep();
        if fs::remove_dir_all(&path).is_ok() {
            return Ok(());
        }
        let rm = |program: &str, args: &[&str]| {
            Command::new(program)
                .args(args)
                .args(["rm", "-rf", "--one-file-system"])
                .arg(&path)
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        let done = rm("unshare", &["--user", "--map-root-user", "--map-auto"])
            || rm("buildah", &["unshare"])
            || rm("unshare", &["--user", "--map-root-user"]);
        if done { Ok(()) } else { Err(format!("{} cannot be removed", path.display())) }
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        let mut wrong = Vec::new();
        let ids = self.containers();
        if !ids.is_empty() {
            let removal = self.run(&format!("rm -f {}", ids.join(" ")));
            if removal.code != 0 {
                wrong.push(format!("dhow rm -f exits {}: {}", removal.code, removal.stderr));
            }
        }
        wrong.extend(self.settle());
        // A leak of this test must not disturb the next: these name our own directory.
        for (pid, _) in processes_of(self.dir().to_str().unwrap()) {
            // It may be gone by now.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for place in mounts_under(self.dir().to_str().unwrap()) {
            // What a failed test has left mounted on the host.
            let place = place.split(' ').nth(4).unwrap_or_default().to_owned();
            let _ = nix::mount::umount2(&*place, nix::mount::MntFlags::MNT_DETACH);
        }
        wrong.extend(self.delete().err());
        if !wrong.is_empty() && !thread::panicking() {
            panic!("the test leaves behind:\n  {}", wrong.join("\n  "));
        } else if !wrong.is_empty() {
            eprintln!("the test also leaves behind:\n  {}", wrong.join("\n  "));
        }
    }
}

/// Looks again and again until `done`, and no longer than a command may take.
#[track_caller]
pub(crate) fn poll(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Where the environments of all tests are.
pub(crate) fn base() -> PathBuf {
    env::var_os("DHOW_TEST_DIR").unwrap_or_else(|| "/var/tmp".into()).into()
}

/// What `look` finds once everything had a moment to end.
fn settled(look: impl Fn() -> Vec<String>) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = look();
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The binary under test: `$DHOW_BIN`, else the one cargo built with this test.
fn dhow() -> PathBuf {
    let named = |key: &str| env::var_os(key).filter(|path| !path.is_empty());
    let moved = named("DHOW_BIN").or_else(|| named("NEXTEST_BIN_EXE_dhow"));
    moved.map_or_else(|| env!("CARGO_BIN_EXE_dhow").into(), PathBuf::from)
}

/// Splits a line as sh does: blanks separate, `'…'` is literal, in `"…"` and outside a backslash
/// takes the next character as it is.
pub(crate) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    assert_eq!(quote, None, "unfinished quote in {line:?}");
    words.extend(word);
    words
}

/// A command that runs beside the test; killed if the test ends first.
#[derive(Debug)]
pub(crate) struct Running {
    line: String,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Capture,
    pub(crate) stderr: Capture,
    child: Child,
}

impl Running {
    fn start(line: &str, mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self {
            line: line.to_owned(),
            stdin: child.stdin.take(),
            stdout: Capture::of(child.stdout.take().unwrap()),
            stderr: Capture::of(child.stderr.take().unwrap()),
            child,
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn send(&mut self, input: &str) {
        self.stdin.as_mut().unwrap().write_all(input.as_bytes()).unwrap();
    }

    /// Waits until stdout holds `text`.
    #[track_caller]
    pub(crate) fn expect(&self, text: &str) {
        let holds = |bytes: &[u8], _| String::from_utf8_lossy(bytes).contains(text).then_some(());
        assert!(
            self.stdout.wait(DEADLINE, holds).is_some(),
            "`{}` does not print {text:?} but {:?}; stderr: {}",
            self.line,
            self.stdout.so_far(),
            self.stderr.so_far()
        );
    }

    /// Closes its stdin and waits for its end.
    #[must_use = "say what the run should have done"]
    #[track_caller]
    pub(crate) fn finish(mut self) -> Run {
        drop(self.stdin.take());
        let code = wait(&mut self.child, &self.line);
        // Whoever holds the pipes now is no part of the command that has ended.
        let rest = |stream: &Capture| stream.whole(Duration::from_secs(5));
        let (Some(stdout), Some(stderr)) = (rest(&self.stdout), rest(&self.stderr)) else {
            panic!("`{}` has ended, but a process it left behind keeps its output open", self.line)
        };
        Run::new(&self.line, stdout, stderr, code)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The exit code as a shell gives it; killed and reported if it takes too long.
#[track_caller]
pub(crate) fn wait(child: &mut Child, line: &str) -> i32 {
    let deadline = Instant::now() + DEADLINE;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().or(status.signal().map(|n| 128 + n)).unwrap();
        }
        if Instant::now() > deadline {
            drop(child.kill());
            panic!("`{line}` still runs after {DEADLINE:?}");
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

/// What a command did. A chain first says how it ended (`ok`, `exits`, `fails_with`, `warns`),
/// then what it printed; where it says nothing about the end, success without a word on stderr
/// is meant.
#[derive(Debug)]
pub(crate) struct Run {
    line: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// What it printed, if it was not text.
    pub(crate) bytes: Vec<u8>,
    pub(crate) code: i32,
    judged: bool,
}

impl Run {
    pub(crate) fn new(line: &str, stdout: Vec<u8>, stderr: Vec<u8>, code: i32) -> Self {
        Self {
            line: line.to_owned(),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            bytes: stdout,
            code,
            judged: false,
        }
    }

    /// Exit code 0, and nothing on stderr.
    #[track_caller]
    pub(crate) fn ok(mut self) -> Self {
        if !self.judged {
            self = self.exits(0);
            assert_eq!(self.stderr, "", "`{}` succeeds but writes to stderr", self.line);
        }
        self
    }

    /// This exit code; stderr is not looked at.
    #[track_caller]
    pub(crate) fn exits(mut self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "exit code of `{}`\n--- stdout\n{}\n--- stderr\n{}",
            self.line, self.stdout, self.stderr
        );
        self.judged = true;
        self
    }

    /// Success, with `text` on stderr.
    #[track_caller]
    pub(crate) fn warns(self, text: &str) -> Self {
        self.exits(0).tells(text)
    }

    /// This exit code, `text` on stderr and nothing on stdout.
    #[track_caller]
    pub(crate) fn fails_with(self, code: i32, text: &str) -> Self {
        self.exits(code).tells(text).prints("")
    }

    /// `text` is on stderr.
    #[track_caller]
    pub(crate) fn tells(self, text: &str) -> Self {
        let told = self.stderr.contains(text);
        assert!(told, "stderr of `{}` should have {text:?} but is\n{}", self.line, self.stderr);
        self
    }

    /// Exactly this on stdout.
    #[track_caller]
    pub(crate) fn prints(self, expected: &str) -> Self {
        let run = self.ok();
        assert_eq!(run.stdout, expected, "stdout of `{}`; stderr: {}", run.line, run.stderr);
        run
    }

    /// Exactly these lines on stdout, blanks around them aside.
    #[track_caller]
    pub(crate) fn prints_lines<const N: usize>(self, expected: [&str; N]) -> Self {
        let run = self.ok();
        let lines: Vec<&str> = run.stdout.lines().map(str::trim).collect();
        assert_eq!(lines, expected, "stdout of `{}`; stderr: {}", run.line, run.stderr);
        run
    }

    /// `text` is somewhere on stdout.
    #[track_caller]
    pub(crate) fn shows(self, text: &str) -> Self {
        let run = self.ok();
        let shown = run.stdout.contains(text);
        assert!(shown, "stdout of `{}` should have {text:?} but is\n{}", run.line, run.stdout);
        run
    }

    /// `text` is nowhere on stdout.
    #[track_caller]
    pub(crate) fn hides(self, text: &str) -> Self {
        let run = self.ok();
        let shown = run.stdout.contains(text);
        assert!(!shown, "stdout of `{}` should not have {text:?} but is\n{}", run.line, run.stdout);
        run
    }

    /// A tar on stdout with exactly these names, in any order.
    #[track_caller]
    pub(crate) fn prints_tar<const N: usize>(self, expected: [&str; N]) -> Self {
        let run = self.ok();
        let mut archive = tar::Archive::new(run.bytes.as_slice());
        let names: BTreeSet<String> = (archive.entries().unwrap())
            .map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, expected.map(str::to_owned).into(), "the tar of `{}`", run.line);
        run
    }

    /// stdout as it is.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// stdout, less the last newline.
    #[track_caller]
    pub(crate) fn text(self) -> String {
        self.ok().stdout.trim_end_matches('\n').to_owned()
    }

    /// stdout read as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        let run = self.ok();
        serde_json::from_str(&run.stdout)
            .unwrap_or_else(|e| panic!("`{}` prints no JSON: {e}\n{}", run.line, run.stdout))
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Processes, but for this one, that have to do with `dir`: in their arguments, environment,
/// working directory, descriptors or mounts.
fn processes_of(dir: &str) -> Vec<(i32, &'static str)> {
    let holds = |text: Vec<u8>| text.windows(dir.len()).any(|part| part == dir.as_bytes());
    let pids = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok());
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let own = namespace("self");
    let reason = |pid: i32| {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        for (file, why) in [
            ("cmdline", "its arguments name it"),
            ("environ", "its environment names it"),
            ("mountinfo", "it has mounts of it"),
        ] {
            // What is mounted on the host itself every process of the host has.
            let tells = file != "mountinfo" || namespace(&pid.to_string()) != own;
            if tells && fs::read(proc.join(file)).is_ok_and(holds) {
                return Some((pid, why));
            }
        }
        let descriptors = fs::read_dir(proc.join("fd")).into_iter().flatten().flatten();
        let mut links = descriptors.map(|fd| fd.path()).chain([proc.join("cwd")]);
        links
            .any(|link| fs::read_link(link).is_ok_and(|to| to.starts_with(dir)))
            .then_some((pid, "it has it open"))
    };
    pids.filter(|&pid| pid != std::process::id().cast_signed()).filter_map(reason).collect()
}

fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

fn mounts_under(dir: &str) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(dir)).map(str::to_owned).collect()
}

static CONTAINER_ID: LazyLock<Regex> = LazyLock::new(|| Regex::new("[0-9a-f]{64}").unwrap());

/// cgroup v2 directories that are called after a container.
fn container_cgroups() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut pending: Vec<PathBuf> = needs::cgroup_mount().into_iter().collect();
    while let Some(dir) = pending.pop() {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        for dir in entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()) {
            if CONTAINER_ID.is_match(&dir.file_name().unwrap().to_string_lossy()) {
                found.insert(dir);
            } else {
                pending.push(dir);
            }
        }
    }
    found
}

/// Another test's container may be between its cgroup and its first process, or have lost its
/// monitor on the way.
fn is_of_another_test(cgroup: &Path) -> bool {
    let own = fs::metadata(cgroup).is_ok_and(|meta| meta.uid() == nix::unistd::getuid().as_raw());
    let name = cgroup.file_name().unwrap().to_string_lossy();
    let id = CONTAINER_ID.find(&name).unwrap().as_str();
    let tests = fs::read_dir(base()).into_iter().flatten().flatten();
    !own || tests.map(|dir| dir.path().join("r/containers").join(id)).any(|dir| dir.exists())
}

fn is_unpopulated(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|text| text.contains("populated 0"))
}
