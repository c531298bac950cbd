//! `ps`: docker's columns, fields and words.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    mem,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value};

use super::super::{
    args::container::Ps,
    exit,
    output::{
        self,
        table::{Row, align, listed, without_heading},
        units,
    },
};
use crate::{
    engine::{
        Engine,
        container::{
            Status,
            list::{Listed, Query, bind_source, namespaces_of, network_name},
        },
    },
    error::{Context as _, Error, Result},
    network::attachment::Port,
    oci::Digest,
    state::health::Health,
    sys::tty,
};

const TABLE: &str =
    "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

pub(super) const HEADERS: [(&str, &str); 15] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Names", "NAMES"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Platform", "PLATFORM"),
];

pub fn ps(engine: &Engine, args: &Ps) -> Result<ExitCode> {
    let Some(seconds) = args.watch else { return show(engine, args) };
    if seconds == 0 {
        return Err(Error::invalid("--watch 0: it takes a number of seconds"));
    }
    loop {
        if tty::is_terminal(std::io::stdout()) {
            output::print("\x1b[H\x1b[2J")?;
        }
        show(engine, args)?;
        std::thread::sleep(Duration::from_secs(seconds.into()));
    }
}

fn show(engine: &Engine, args: &Ps) -> Result<ExitCode> {
    let last = if args.latest { Some(1) } else { usize::try_from(args.last).ok() };
    let query = Query {
        all: args.all,
        last: last.filter(|&count| count > 0),
        filters: engine.filters(&args.filter)?,
    };
    let mut found = engine.containers(&query)?;
    if let Some(key) = &args.sort {
        sort(&mut found.containers, key, engine)?;
    }
    for err in &found.damaged {
        exit::warn(&err.clone().context("a container is not listed"));
    }
    let format = args.format.as_deref().filter(|format| !format.is_empty());
    if args.quiet {
        if format.is_some() {
            exit::note(
                "WARNING: Ignoring custom format, because both --format and --quiet are set.",
            );
        }
        return ids(&found.containers, args.no_trunc);
    }
    if args.ns {
        return namespaces(&found.containers, args);
    }
    let printer = Printer::new(engine, args, format)?;
    let rows: Result<Vec<Row>> = found.containers.iter().map(|one| printer.row(one)).collect();
    let mut table = TABLE.to_owned();
    if args.size {
        table.push_str("\t{{.Size}}");
    }
    output::print(&listed(&rows?, format, &table, &HEADERS, args.noheading)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Podman's `--ns`.
fn namespaces(containers: &[Listed], args: &Ps) -> Result<ExitCode> {
    let mut text =
        "CONTAINER ID\tNAMES\tPID\tCGROUPNS\tIPC\tMNT\tNET\tPIDNS\tUSERNS\tUTS\n".to_owned();
    for one in containers {
        let id = if args.no_trunc { one.id.as_str() } else { one.id.short() };
        let pid = one.status.process().map_or(0, |process| process.init.pid);
        let inodes = if pid == 0 { Default::default() } else { namespaces_of(pid) };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{id}\t{}\t{pid}\t{}", one.name, inodes.join("\t"));
    }
    output::print(without_heading(&align(&text), args.noheading))?;
    Ok(ExitCode::SUCCESS)
}

/// Podman's `--sort`.
fn sort(containers: &mut [Listed], key: &str, engine: &Engine) -> Result<()> {
    match key {
        "command" => containers.sort_by(|a, b| a.command.cmp(&b.command)),
        "created" | "runningfor" => containers.sort_by_key(|one| one.created),
        "id" => containers.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str())),
        "image" => containers.sort_by(|a, b| a.image.cmp(&b.image)),
        "names" => containers.sort_by(|a, b| a.name.cmp(&b.name)),
        "size" => containers.sort_by_cached_key(|one| {
            engine.sizes(&one.id, &one.image_id).map_or(0, |(own, _)| own)
        }),
        "status" => containers.sort_by_key(|one| one.status.word()),
        other => {
            return Err(Error::invalid(format!("invalid argument {other:?} for --sort")).hint(
                "orders are command, created, id, image, names, runningfor, size and status",
            ));
        }
    }
    Ok(())
}

/// The rows of `system df -v`, with sizes that are known already.
pub(super) fn rows_for_df(
    engine: &Engine,
    containers: &[(Listed, u64)],
    whole: bool,
) -> Result<Vec<Row>> {
    let printer = Printer::of(engine, !whole, false, true)?;
    let row = |(one, size): &(Listed, u64)| {
        let mut row = printer.row(one)?;
        row.fields.insert("Size".to_owned(), units::short_size(*size).into());
        Ok(row)
    };
    containers.iter().map(row).collect()
}

fn ids(containers: &[Listed], whole: bool) -> Result<ExitCode> {
    let text = containers.iter().fold(String::new(), |mut text, one| {
        text.push_str(if whole { one.id.as_str() } else { one.id.short() });
        text.push('\n');
        text
    });
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// How rows are made, the same for all of them.
struct Printer<'a> {
    engine: &'a Engine,
    now: Timestamp,
    zone: TimeZone,
    truncate: bool,
    /// Walks each container's files.
    sizes: bool,
    /// Fields that the usual table does not show.
    everything: bool,
    /// Of the images that are here.
    platforms: HashMap<Digest, String>,
}

impl<'a> Printer<'a> {
    fn new(engine: &'a Engine, args: &Ps, format: Option<&str>) -> Result<Self> {
        let format = format.unwrap_or_default();
        let everything = !matches!(format, "" | "table");
        Self::of(engine, !args.no_trunc, args.size || format.contains(".Size"), everything)
    }

    fn of(engine: &'a Engine, truncate: bool, sizes: bool, everything: bool) -> Result<Self> {
        let images = if everything { engine.store.list()? } else { Vec::new() };
        let platforms =
            images.into_iter().map(|image| (image.record.id, image.record.platform.to_string()));
        Ok(Self {
            engine,
            now: Timestamp::now(),
            zone: TimeZone::system(),
            truncate,
            sizes,
            everything,
            platforms: platforms.collect(),
        })
    }

    fn row(&self, one: &Listed) -> Result<Row> {
        let mut fields = Map::new();
        let mut put =
            |name: &str, value: String| fields.insert(name.to_owned(), Value::String(value));
        put("ID", if self.truncate { one.id.short() } else { one.id.as_str() }.to_owned());
        put("Image", self.image(&one.image));
        put("Command", self.command(&one.command));
        put("RunningFor", units::ago(self.since(one.created)));
        put("Status", self.status(&one.status, one.health));
        put("Ports", ports(one));
        put("Names", one.name.clone());
        if self.sizes {
            put("Size", self.size(one)?);
        }
        if !self.everything {
            return Ok(Row { fields, ..Row::default() });
        }
        let created = one.created.to_zoned(self.zone.clone());
        put("CreatedAt", created.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string());
        put("State", one.status.word().to_owned());
        if !self.sizes {
            put("Size", "0B".to_owned());
        }
        put("Labels", pairs(&one.labels));
        put("Mounts", self.mounts(one));
        let mode = network_name(&one.network).map(str::to_owned);
        put("Networks", mode.unwrap_or_else(|| one.networks.join(",")));
        let volumes = one.mounts.iter().filter_map(crate::volume::volume_name);
        put("LocalVolumes", volumes.count().to_string());
        put("Platform", self.platforms.get(&one.image_id).cloned().unwrap_or_default());
        Ok(Row { fields, labels: one.labels.clone() })
    }

    fn since(&self, moment: Timestamp) -> Duration {
        // A clock that was set back must not make the past the future.
        Duration::try_from(self.now.duration_since(moment)).unwrap_or_default()
    }

    fn status(&self, status: &Status, health: Option<Health>) -> String {
        match status {
            Status::Created => "Created".into(),
            Status::Initialized(_) => "Initialized".into(),
            Status::Running(process) => {
                let up = units::up(self.since(process.started));
                match health {
                    Some(Health::Starting) => up + " (health: starting)",
                    Some(health) => format!("{up} ({})", health.word()),
                    None => up,
                }
            }
            Status::Paused(process) => units::up(self.since(process.started)) + " (Paused)",
            Status::Restarting(state) => {
                let ago = units::ago(self.since(state.finished.unwrap_or(self.now)));
                format!("Restarting ({}) {ago}", status.exit_code())
            }
            Status::Exited(state) => {
                let finished = state.finished.unwrap_or(self.now);
                units::exited(status.exit_code(), self.since(finished))
            }
            // Nobody knows when.
            Status::Lost(_) => format!("Exited ({})", status.exit_code()),
        }
    }

    /// An image that was named by its whole id is shown as other ids are.
    fn image(&self, name: &str) -> String {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_id = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        if self.truncate && is_id { hex[..12].to_owned() } else { name.to_owned() }
    }

    fn command(&self, words: &[String]) -> String {
        let mut text = String::new();
        for (index, word) in words.iter().enumerate() {
            let quote = if index > 0 && word.contains(' ') { "'" } else { "" };
            let space = if index > 0 { " " } else { "" };
            // Writing to a String cannot fail.
            let _ = write!(text, "{space}{quote}{word}{quote}");
        }
        if self.truncate {
            text = ellipsis(&text, 20);
        }
        output::template::quote(&text)
    }

    fn mounts(&self, one: &Listed) -> String {
        let sources = one.mounts.iter().filter_map(bind_source).map(|path| {
            let text = path.display().to_string();
            if self.truncate { ellipsis(&text, 15) } else { text }
        });
        sources.collect::<Vec<_>>().join(",")
    }

    fn size(&self, one: &Listed) -> Result<String> {
        let (own, all) = self
            .engine
            .sizes(&one.id, &one.image_id)
            .doing_with(|| format!("measure container {}", one.name))?;
        let own = units::short_size(own);
        Ok(match all {
            0 => own,
            all => format!("{own} (virtual {})", units::short_size(all)),
        })
    }
}

/// Docker's labels: `key=value`, in no order there, sorted here.
fn pairs(labels: &std::collections::BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// At most `width` characters, the last of them an ellipsis if something was cut.
fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Docker's column: ports that are the same outside, as ranges; then those that are another one
/// outside, each.
fn ports(one: &Listed) -> String {
    if !one.status.is_running() {
        return String::new();
    }
    let mut all: Vec<Shown> = one.ports.iter().map(Shown::published).collect();
    let inside: Vec<(u16, &str)> = all.iter().map(|port| (port.inside, port.protocol)).collect();
    if !one.networks.is_empty() {
        let exposed = one.exposed_ports.iter().filter_map(|typed| Shown::exposed(typed));
        all.extend(exposed.filter(|port| !inside.contains(&(port.inside, port.protocol))));
    }
    all.sort();
    columns(&all)
}

/// A port of a container, in docker's order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shown<'a> {
    inside: u16,
    /// Where it is on the host, if it is published.
    outside: Option<(IpAddr, u16)>,
    protocol: &'a str,
}

impl<'a> Shown<'a> {
    fn published(port: &Port) -> Shown<'static> {
        Shown {
            inside: port.container_port,
            outside: Some((port.host_ip, port.host_port)),
            protocol: port.protocol.name(),
        }
    }

    /// `80/tcp`, as an image has it.
    fn exposed(typed: &'a str) -> Option<Self> {
        let (port, protocol) = typed.split_once('/').unwrap_or((typed, "tcp"));
        Some(Self { inside: port.parse().ok()?, outside: None, protocol })
    }
}

/// Ports that follow each other, at the same address.
struct Range<'a> {
    at: Option<IpAddr>,
    protocol: &'a str,
    first: u16,
    last: u16,
}

impl fmt::Display for Range<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = match self.first == self.last {
            true => self.first.to_string(),
            false => format!("{}-{}", self.first, self.last),
        };
        match self.at {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{ports}->")?,
            Some(ip) => write!(f, "{ip}:{ports}->")?,
            None => {}
        }
        write!(f, "{ports}/{}", self.protocol)
    }
}

fn columns(ports: &[Shown<'_>]) -> String {
    let (mut done, mut open, mut moved) = (Vec::new(), Vec::<Range<'_>>::new(), Vec::new());
    for port in ports {
        let at = match port.outside {
            Some((ip, number)) if number != port.inside => {
                let outside = SocketAddr::new(ip, number);
                moved.push(format!("{outside}->{}/{}", port.inside, port.protocol));
                continue;
            }
            outside => outside.map(|(ip, _)| ip),
        };
        let next = Range { at, protocol: port.protocol, first: port.inside, last: port.inside };
        match open.iter_mut().find(|range| (range.at, range.protocol) == (at, port.protocol)) {
            Some(range) if range.last.checked_add(1) == Some(port.inside) => {
                range.last = port.inside;
            }
            Some(range) => done.push(mem::replace(range, next).to_string()),
            None => open.push(next),
        }
    }
    let open = open.iter().map(ToString::to_string);
    done.into_iter().chain(open).chain(moved).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_by_characters() {
        assert_eq!(ellipsis("sh -c 'echo hello'", 20), "sh -c 'echo hello'");
        assert_eq!(ellipsis("sh -c 'while true; do date; done'", 20), "sh -c 'while true; …");
        assert_eq!(ellipsis("éééé", 3), "éé…");
    }

    #[test]
    fn ports_are_joined_as_docker_joins_them() {
        let at = |ip: &str, outside, inside| Shown {
            inside,
            outside: Some((ip.parse().expect("an address"), outside)),
            protocol: "tcp",
        };
        let exposed = |typed| Shown::exposed(typed).expect("a port");
        let text = |mut ports: Vec<Shown<'_>>| {
            ports.sort();
            columns(&ports)
        };
        let both = |outside, inside| [at("::", outside, inside), at("0.0.0.0", outside, inside)];
        let same: Vec<_> = (8090..=8092).flat_map(|port| both(port, port)).collect();
        assert_eq!(text(same), "0.0.0.0:8090-8092->8090-8092/tcp, [::]:8090-8092->8090-8092/tcp");
        let moved: Vec<_> = (0..2).flat_map(|n| both(8090 + n, 80 + n)).collect();
        assert_eq!(
            text(moved),
            "0.0.0.0:8090->80/tcp, [::]:8090->80/tcp, 0.0.0.0:8091->81/tcp, [::]:8091->81/tcp"
        );
        let gap =
            vec![exposed("90/tcp"), at("127.0.0.1", 5, 9), exposed("70/tcp"), exposed("71/tcp")];
        assert_eq!(text(gap), "70-71/tcp, 90/tcp, 127.0.0.1:5->9/tcp");
        assert_eq!(text(vec![exposed("53/udp"), exposed("54/tcp")]), "53/udp, 54/tcp");
        assert_eq!(text(vec![exposed("65535/udp"), exposed("65535/tcp")]), "65535/tcp, 65535/udp");
    }
}
