//! What is seldom asked of a start: see [`Special`](crate::state::record::Special).

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::start::StartOptions;
use crate::{
    engine::{Engine, user::Accounts},
    error::{Context as _, Error, Result},
    run::spec::ResolvedUser,
    state::{layout::ContainerPaths, record::ContainerRecord},
};

/// Where time zones are on most systems: `tzfile(5)`.
const ZONES: &str = "/usr/share/zoneinfo";

impl Engine {
    /// Starts the containers that this one requires.
    pub(super) fn start_required(&self, record: &ContainerRecord) -> Result<()> {
        for id in &record.host.special.requires {
            self.start_unless_running(id, StartOptions::default()).doing_with(|| {
                format!("start what {} requires, container {}", record.name, id.short())
            })?;
        }
        Ok(())
    }
}

impl Engine {
    /// What `/etc/hosts` begins with, if that was chosen.
    pub(super) fn hosts_base(
        &self,
        record: &ContainerRecord,
        paths: &ContainerPaths,
    ) -> Result<Option<String>> {
        const CAP: u64 = 4 << 20;
        let bytes = match record.host.special.hosts_file.as_deref() {
            None => return Ok(None),
            Some("none") => Vec::new(),
            Some("image") => {
                let stack = self.stack(record, Some(paths));
                stack.read_small("/etc/hosts", CAP).ok().flatten().unwrap_or_default()
            }
            Some(path) => fs::read(path).at(path).doing("read the hosts file")?,
        };
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(Some(text))
    }
}

/// The files that replace the image's.
pub(super) fn write_files(
    record: &ContainerRecord,
    paths: &ContainerPaths,
    accounts: &Accounts,
    user: &ResolvedUser,
) -> Result<()> {
    let special = &record.host.special;
    let write = |name: &str, bytes: &[u8]| {
        let path = paths.files().join(name);
        fs::write(&path, bytes).at(&path).doing("write")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).at(&path)
    };
    if let Some(zone) = &special.time_zone {
        write("localtime", &time_zone(zone)?)?;
    }
    let is_added = special.passwd || special.passwd_entry.is_some();
    if is_added || !special.host_users.is_empty() {
        let known = !is_added || accounts.has_uid(user.uid);
        let line = special.passwd_entry.as_deref();
        let line = line.unwrap_or("$USERNAME:*:$UID:$GID:$NAME:$HOME:/bin/sh");
        let uid = user.uid.to_string();
        let home = if user.home == "/" { &record.config.working_dir } else { &user.home };
        let line = replace(
            line,
            &[
                ("$USERNAME", &uid),
                ("$UID", &uid),
                ("$GID", &user.gid.to_string()),
                ("$NAME", "container user"),
                ("$HOME", home),
            ],
        );
        write("passwd", with_line(&accounts.passwd, &line, known).as_bytes())?;
    }
    if special.passwd || special.group_entry.is_some() {
        let known = special.group_entry.is_none() && accounts.has_gid(user.gid);
        let line = special.group_entry.as_deref().unwrap_or("$GROUPNAME:x:$GID:$USERLIST");
        let gid = user.gid.to_string();
        let uid = user.uid.to_string();
        let line = replace(line, &[("$GROUPNAME", &gid), ("$GID", &gid), ("$USERLIST", &uid)]);
        write("group", with_line(&accounts.group, &line, known).as_bytes())?;
    }
    Ok(())
}

fn replace(line: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(line.to_owned(), |line, (name, value)| line.replace(name, value))
}

fn with_line(text: &str, line: &str, known: bool) -> String {
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    if known { text.to_owned() } else { format!("{text}{gap}{line}\n") }
}

/// The bytes of a zone's file, or of the host's own.
pub fn time_zone(zone: &str) -> Result<Vec<u8>> {
    let path = match zone {
        "local" => Path::new("/etc/localtime").to_owned(),
        zone => {
            let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
            if !zone.split('/').all(plain) {
                return Err(unknown(zone));
            }
            Path::new(ZONES).join(zone)
        }
    };
    let bytes = fs::read(&path).ok().filter(|bytes| bytes.starts_with(b"TZif"));
    bytes.ok_or_else(|| unknown(zone))
}

fn unknown(zone: &str) -> Error {
    Error::invalid(format!("unknown time zone {zone}")).hint(format!(
        "zones are files below {ZONES}, such as Europe/Berlin; `local` is this host's"
    ))
}

/// `--pidfile` and `--conmon-pidfile`.
pub(super) fn write_pids(record: &ContainerRecord, init: i32, monitor: i32) -> Result<()> {
    let special = &record.host.special;
    for (path, pid) in [(&special.pid_file, init), (&special.monitor_pid_file, monitor)] {
        if let Some(path) = path {
            fs::write(path, pid.to_string()).at(path).doing("write a process id")?;
        }
    }
    Ok(())
}

/// Tells systemd that the container runs, and that its monitor is the service's main process
/// (`sd_notify(3)`). Nobody may be listening any more, which is no failure of the container.
pub(super) fn notify(record: &ContainerRecord, monitor: u32) {
    if record.host.special.notify {
        tell_systemd(monitor);
    }
}

/// See [`notify`]; the monitor has the socket's address from who started it.
pub(super) fn tell_systemd(monitor: u32) {
    use std::os::{linux::net::SocketAddrExt as _, unix::net};
    let Some(path) = std::env::var("NOTIFY_SOCKET").ok().filter(|path| !path.is_empty()) else {
        return;
    };
    let address = match path.strip_prefix('@') {
        Some(name) => net::SocketAddr::from_abstract_name(name),
        None => net::SocketAddr::from_pathname(&path),
    };
    if let (Ok(address), Ok(socket)) = (address, net::UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(format!("MAINPID={monitor}\nREADY=1").as_bytes(), &address);
    }
}
