//! `top`: the processes of a container, as this host numbers them.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use jiff::{Timestamp, tz::TimeZone};

use super::pause::not_running;
use crate::{
    cgroup::Cgroup,
    engine::Engine,
    error::{Context as _, Error, Result},
    state::{ContainerId, record::ProcessRecord},
    sys::host,
};

/// A table: its head, and a line for each process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processes {
    pub titles: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Engine {
    /// The container's processes: with `options` what `ps(1)` of this host says of them, else the
    /// columns of `ps -ef`, which docker's default is.
    pub fn top(&self, id: &ContainerId, options: &[String]) -> Result<Processes> {
        let container = self.load(id)?;
        let process =
            container.status.process().ok_or_else(|| not_running(&container.record.name))?;
        let pids = pids(process)?;
        self.note(&container.record, "top");
        match options {
            [] => Ok(by_ourselves(&pids)),
            options => by_ps(&pids, options),
        }
    }
}

/// Whose they are is told by the cgroup; without one by the pid namespace.
fn pids(process: &ProcessRecord) -> Result<BTreeSet<i32>> {
    if let Some(cgroup) = process.cgroup.clone() {
        return Ok(Cgroup::open(cgroup)?.pids()?.into_iter().collect());
    }
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(process.init.pid)
        .ok_or_else(|| Error::conflict("the container has just ended"))?;
    let entries = fs::read_dir("/proc").at("/proc")?;
    let all = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(all.filter(|&pid| namespace(pid).as_ref() == Some(&own)).collect())
}

const TITLES: [&str; 8] = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];

fn by_ourselves(pids: &BTreeSet<i32>) -> Processes {
    let clock = Clock::read();
    let rows = pids.iter().filter_map(|&pid| row(pid, &clock));
    Processes { titles: TITLES.map(str::to_owned).into(), rows: rows.collect() }
}

/// What turns the kernel's ticks into times of day, and its numbers into names.
struct Clock {
    /// `/etc/passwd` of the host. The C library would ask other services, too: a static
    /// executable cannot load them.
    passwd: String,
    now: Timestamp,
    /// Seconds since boot.
    uptime: f64,
    /// Ticks a second (`sysconf(3)`, `_SC_CLK_TCK`).
    hertz: f64,
}

impl Clock {
    fn read() -> Self {
        let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let uptime = text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
        let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
        #[expect(clippy::cast_precision_loss, reason = "a hundred")]
        let hertz = hertz.unwrap_or(100) as f64;
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self { passwd, now: Timestamp::now(), uptime, hertz }
    }
}

/// One process as `ps -ef` shows it: proc_pid_stat(5), proc_pid_status(5). `None` if it is gone.
fn row(pid: i32, clock: &Clock) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, parentheses and spaces included.
    let (head, fields) = stat.rsplit_once(") ")?;
    let name = head.split_once(" (")?.1;
    let fields: Vec<&str> = fields.split(' ').collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or("0");
    let ticks = |number: usize| field(number).parse::<f64>().unwrap_or(0.0) / clock.hertz;
    let busy = ticks(14) + ticks(15);
    let age = (clock.uptime - ticks(22)).max(0.0);
    let share = if age > 0.0 { (100.0 * busy / age).min(99.0) } else { 0.0 };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uid =
        status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = match command.as_slice() {
        [] => format!("[{name}]"),
        words => String::from_utf8_lossy(words).trim_end_matches('\0').replace('\0', " "),
    };
    Some(vec![
        user_name(uid, clock),
        pid.to_string(),
        field(4).to_owned(),
        format!("{share:.0}"),
        started(clock, age),
        terminal(field(7)),
        busy_time(busy),
        command,
    ])
}

fn user_name(uid: &str, clock: &Clock) -> String {
    let known = uid.parse().ok().and_then(|uid| host::user_name(&clock.passwd, uid));
    known.unwrap_or_else(|| uid.to_owned())
}

/// The time of day; of what is older than a day, the day.
fn started(clock: &Clock, age: f64) -> String {
    let age = std::time::Duration::from_secs_f64(age);
    let moment = clock.now.checked_sub(age).unwrap_or(clock.now).to_zoned(TimeZone::system());
    let pattern = if age.as_secs() < 24 * 3600 { "%H:%M" } else { "%b%d" };
    moment.strftime(pattern).to_string()
}

/// proc_pid_stat(5), field 7: the minor is in bits 31 to 20 and 7 to 0.
fn terminal(field: &str) -> String {
    const FIRST_PTS: u32 = 136;
    match field.parse::<u32>().unwrap_or(0) {
        0 => "?".to_owned(),
        device => {
            let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
            if major == FIRST_PTS { format!("pts/{minor}") } else { format!("tty{minor}") }
        }
    }
}

fn busy_time(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative")]
    let seconds = seconds as u64;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Docker's way: the host's own `ps` says it all, and the container's lines are picked out.
fn by_ps(pids: &BTreeSet<i32>, options: &[String]) -> Result<Processes> {
    if let Some(odd) = options.iter().find(|option| option.contains('\0')) {
        return Err(Error::invalid(format!("{odd:?} is not an option of ps")));
    }
    let output = Command::new("ps").args(options).stdin(Stdio::null()).output();
    let output = match output {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            return Err(Error::unsupported("options of ps need the program ps on this host")
                .hint("install procps, or leave the options out"));
        }
        output => output.at(Path::new("ps"))?,
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().lines().next().unwrap_or("it failed").to_owned();
        return Err(Error::invalid(format!("ps {}: {said}", options.join(" "))));
    }
    pick(&String::from_utf8_lossy(&output.stdout), pids)
}

fn pick(text: &str, pids: &BTreeSet<i32>) -> Result<Processes> {
    let mut lines = text.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let at = titles.iter().position(|title| title == "PID").ok_or_else(|| {
        Error::invalid("couldn't find PID field in ps output")
            .hint("the columns asked for must hold pid")
    })?;
    let rows = lines.filter_map(|line| {
        // The last column is the rest of the line, spaces and all.
        let mut row = Vec::with_capacity(titles.len());
        let mut rest = line.trim();
        while row.len() + 1 < titles.len() {
            let (word, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            row.push(word.to_owned());
            rest = behind.trim_start();
        }
        row.push(rest.to_owned());
        let pid = row.get(at)?.parse::<i32>().ok()?;
        pids.contains(&pid).then_some(row)
    });
    let rows = rows.collect();
    Ok(Processes { titles, rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_lines_are_picked_out_of_ps() {
        let text = "  PID TTY      STAT COMMAND\n    1 ?        Ss   init\n   42 pts/0    S+   sh -c  'a  b'\n";
        let picked = pick(text, &[42, 77].into()).expect("has PID");
        assert_eq!(picked.titles, ["PID", "TTY", "STAT", "COMMAND"]);
        assert_eq!(picked.rows, [["42", "pts/0", "S+", "sh -c  'a  b'"]]);
        assert!(pick("TTY\n?\n", &[1].into()).is_err());
    }

    #[test]
    fn terminals_and_times_read_as_in_ps() {
        assert_eq!(terminal("0"), "?");
        assert_eq!(terminal("34816"), "pts/0");
        assert_eq!(terminal("1025"), "tty1");
        assert_eq!(busy_time(3725.9), "01:02:05");
        let own = i32::try_from(std::process::id()).expect("a pid");
        let row = row(own, &Clock::read()).expect("this process");
        assert_eq!((row.len(), row[1].clone()), (TITLES.len(), own.to_string()));
    }
}
