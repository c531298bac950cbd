//! `events`: what has happened and what happens, in docker's words.

use std::{collections::BTreeMap, ops::ControlFlow, os::fd::AsFd as _};

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Engine;
use crate::{
    error::{Context as _, Error, Result},
    oci::Digest,
    state::{
        journal::{self, Event, Reader, of_container},
        record::ContainerRecord,
    },
};

/// Which events are asked for.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// From this moment on; `None` is from now on.
    pub since: Option<Timestamp>,
    /// Until then; `None` is for ever.
    pub until: Option<Timestamp>,
    /// Do not wait for more.
    pub only_past: bool,
    pub filters: EventFilters,
}

/// One of the values of each key must hold; every label.
#[derive(Debug, Clone, Default)]
pub struct EventFilters(BTreeMap<String, Vec<String>>);

/// Docker's keys. Of some kinds nothing happens here.
const KEYS: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

impl EventFilters {
    /// Reads `key=value` as typed.
    pub fn parse(typed: &[String]) -> Result<Self> {
        let mut filters = Self::default();
        for text in typed {
            let (key, value) = text.split_once('=').ok_or_else(|| {
                Error::invalid(format!("invalid filter {text:?}")).hint("write it as key=value")
            })?;
            if !KEYS.contains(&key) {
                return Err(Error::invalid(format!("invalid filter '{key}'"))
                    .hint("filters are container, event, image, label, type and volume"));
            }
            filters.0.entry(key.to_owned()).or_default().push(value.to_owned());
        }
        Ok(filters)
    }

    /// Whose name a container's was, should it be gone: not every event tells it.
    fn learn(&mut self, event: &Event) {
        let Some(wanted) = self.0.get_mut("container") else { return };
        let name = event.attributes.get("name").filter(|_| event.kind == "container");
        if name.is_some_and(|name| wanted.contains(name)) && !wanted.contains(&event.id) {
            wanted.push(event.id.clone());
        }
    }

    fn admit(&self, event: &Event) -> bool {
        let attribute = |key: &str| event.attributes.get(key).map(String::as_str);
        let of = |kind: &str, names: &[&str], value: &str| {
            event.kind == kind
                && (event.id.starts_with(value)
                    || names.iter().any(|name| attribute(name) == Some(value)))
        };
        self.0.iter().all(|(key, values)| {
            let holds = |value: &String| match key.as_str() {
                "container" => of("container", &["name"], value),
                // Docker: what happens to an image, and to containers of it.
                "image" => {
                    of("image", &["name"], value)
                        || attribute("image").is_some_and(|image| is_image(image, value))
                }
                "volume" => event.kind == "volume" && event.id == *value,
                "event" => event.action == *value || event.action.split(':').next() == Some(value),
                "type" => event.kind == *value,
                "label" => match value.split_once('=') {
                    Some((key, value)) => attribute(key) == Some(value),
                    None => attribute(value).is_some(),
                },
                "scope" => value == "local",
                _ => false,
            };
            if key == "label" { values.iter().all(holds) } else { values.iter().any(holds) }
        })
    }
}

/// A name without a tag means all of its tags.
fn is_image(image: &str, value: &str) -> bool {
    let (image, value) = (plain(image), plain(value));
    image == value || image.rsplit_once(':').is_some_and(|(name, _)| name == value)
}

fn plain(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    name.strip_suffix(":latest").unwrap_or(name)
}

impl Engine {
    /// Tells each event that is asked for, until `tell` breaks off.
    pub fn events(
        &self,
        query: &EventQuery,
        tell: &mut dyn FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<()> {
        let since = query.since.unwrap_or_else(Timestamp::now);
        let mut filters = self.with_ids(&query.filters);
        let mut reader = Reader::open(&self.layout)?;
        loop {
            for event in reader.read()? {
                filters.learn(&event);
                if query.until.is_some_and(|until| event.time > until) {
                    return Ok(());
                }
                if event.time >= since && filters.admit(&event) && tell(&event).is_break() {
                    return Ok(());
                }
            }
            let timeout = match query.until {
                None if query.only_past => return Ok(()),
                None => PollTimeout::NONE,
                Some(until) => {
                    let left = until.duration_since(Timestamp::now());
                    if query.only_past || left.is_negative() || left.is_zero() {
                        return Ok(());
                    }
                    // Rounded up: the last fraction is not spent spinning.
                    let left = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
                    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
                }
            };
            match poll(&mut [PollFd::new(reader.news().as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno).doing("wait for events"),
            }
        }
    }

    /// Not every event tells the container's name.
    fn with_ids(&self, filters: &EventFilters) -> EventFilters {
        let mut filters = filters.clone();
        if let Some(names) = filters.0.get_mut("container") {
            let ids: Vec<String> =
                names.iter().filter_map(|name| Some(self.find(name).ok()?.to_string())).collect();
            names.extend(ids);
        }
        filters
    }

    /// Notes that something has happened to a container.
    pub fn note(&self, record: &ContainerRecord, action: &str) {
        if record.build.is_some() {
            return;
        }
        journal::append(&self.layout, &of_container(record, action));
    }

    /// As [`note`](Self::note), with an attribute more.
    pub fn note_with(&self, record: &ContainerRecord, action: &str, key: &str, value: &str) {
        journal::append(&self.layout, &of_container(record, action).with(key, value));
    }

    /// Notes that something has happened to an image, under the name it was called by.
    pub fn note_image(&self, id: &Digest, action: &str, name: &str) {
        let event = Event::now("image", action, id.to_string()).with("name", name);
        journal::append(&self.layout, &event);
    }
}
