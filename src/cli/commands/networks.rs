//! `network ls`: which networks there are, and how they are listed.

use std::{collections::BTreeMap, process::ExitCode};

use jiff::tz::TimeZone;
use regex_lite::Regex;
use serde_json::{Map, Value, json};

use super::{
    super::{
        args::network::Ls,
        output::{
            self,
            table::{Row, listed},
        },
        value::{boolean, env},
    },
    prune,
};
use crate::{
    engine::{
        Engine,
        container::{
            list::{Query, pattern},
            prune::PruneFilters,
        },
    },
    error::{Error, Result},
    state::network::{DEFAULT, NetworkRecord},
};

const TABLE: &str = "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}";
const HEADERS: [(&str, &str); 8] = [
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

pub fn ls(engine: &Engine, args: &Ls) -> Result<ExitCode> {
    let filters = Filters::of(&args.filter)?;
    let mut rows = Vec::new();
    let mut ids = String::new();
    let known = engine.networks()?.into_iter();
    for one in known.map(|record| Shown::of(&record)).chain(Shown::modes()) {
        if !filters.admit(engine, &one)? {
            continue;
        }
        let id = if args.no_trunc { one.id.clone() } else { one.id[..12].to_owned() };
        ids.push_str(&format!("{id}\n"));
        rows.push(one.row(id));
    }
    if args.quiet && args.format.is_none() {
        output::print(&ids)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::print(&listed(&rows, args.format.as_deref(), TABLE, &HEADERS, args.noheading)?)?;
    Ok(ExitCode::SUCCESS)
}

/// `--filter`: of each kind one must hold; of labels all.
#[derive(Debug, Default)]
struct Filters {
    ids: Vec<Regex>,
    names: Vec<Regex>,
    drivers: Vec<String>,
    scopes: Vec<String>,
    are_builtin: Vec<bool>,
    are_dangling: Vec<bool>,
    /// Labels and age.
    others: PruneFilters,
}

impl Filters {
    fn of(typed: &[String]) -> Result<Self> {
        let mut filters = Self::default();
        let mut others = Vec::new();
        for text in typed {
            let (key, value) = env::filter(text)?;
            let bad = || Error::invalid(format!("invalid filter: '{key}'='{value}'"));
            match key.as_str() {
                "id" => filters.ids.push(pattern(&value)?),
                "name" => filters.names.push(pattern(&value)?),
                "driver" => filters.drivers.push(value),
                "scope" => filters.scopes.push(value),
                "type" => filters.are_builtin.push(match value.as_str() {
                    "builtin" => true,
                    "custom" => false,
                    _ => return Err(bad().hint("a network's type is builtin or custom")),
                }),
                "dangling" => filters.are_dangling.push(boolean(&value).ok_or_else(bad)?),
                "label" | "label!" | "until" => others.push(format!("{key}={value}")),
                _ => {
                    return Err(Error::invalid(format!("invalid filter '{key}'")).hint(
                        "filters are dangling, driver, id, label, label!, name, scope, type and until",
                    ));
                }
            }
        }
        filters.others = prune::filters(&others)?;
        Ok(filters)
    }

    fn admit(&self, engine: &Engine, one: &Shown) -> Result<bool> {
        fn any<T>(wanted: &[T], is: impl Fn(&T) -> bool) -> bool {
            wanted.is_empty() || wanted.iter().any(is)
        }
        let is_builtin = [DEFAULT, "host", "none"].contains(&one.name.as_str());
        let fits = any(&self.ids, |id| id.is_match(&one.id))
            && any(&self.names, |name| name.is_match(&one.name))
            && any(&self.drivers, |driver| *driver == one.driver)
            && any(&self.scopes, |scope| scope == "local")
            && any(&self.are_builtin, |wanted| *wanted == is_builtin)
            && prune::admits(&self.others, &one.labels, one.created);
        if !fits || self.are_dangling.is_empty() {
            return Ok(fits);
        }
        let is_dangling = !is_builtin && engine.connected(&one.name)?.is_empty();
        Ok(self.are_dangling.contains(&is_dangling))
    }
}

/// A network as it is listed.
pub(super) struct Shown {
    id: String,
    name: String,
    driver: String,
    ipv4: bool,
    ipv6: bool,
    internal: bool,
    labels: BTreeMap<String, String>,
    created: jiff::Timestamp,
}

impl Shown {
    fn of(record: &NetworkRecord) -> Self {
        Self {
            id: record.id.to_string(),
            name: record.name.clone(),
            driver: record.driver.clone(),
            ipv4: record.families().v4,
            ipv6: record.families().v6,
            internal: record.internal,
            labels: record.labels.clone(),
            created: record.created,
        }
    }

    /// The one of them with this name, or whose id begins so.
    pub(super) fn mode(typed: &str) -> Option<Self> {
        let is = |one: &Self| one.name == typed || typed.len() >= 12 && one.id.starts_with(typed);
        Self::modes().find(is)
    }

    /// What `inspect` says of it: who runs so is all that there is.
    pub(super) fn describe(&self, engine: &Engine) -> Result<Value> {
        let query = Query {
            filters: engine.filters(&[format!("network={}", self.name)])?,
            ..Query::default()
        };
        let users = engine.containers(&query)?.containers.into_iter();
        let users: Map<String, Value> = users
            .map(|user| {
                let entry = json!({
                    "Name": user.name, "EndpointID": "", "MacAddress": "",
                    "IPv4Address": "", "IPv6Address": "",
                });
                (user.id.to_string(), entry)
            })
            .collect();
        Ok(json!({
            "Name": self.name,
            "Id": self.id,
            "Created": self.created,
            "Scope": "local",
            "Driver": self.driver,
            "EnableIPv4": self.ipv4,
            "EnableIPv6": self.ipv6,
            "IPAM": { "Driver": "default", "Options": null, "Config": null },
            "Internal": false,
            "Attachable": false,
            "Ingress": false,
            "ConfigFrom": { "Network": "" },
            "ConfigOnly": false,
            "Containers": users,
            "Options": {},
            "Labels": {},
        }))
    }

    /// What docker lists as networks, too.
    fn modes() -> impl Iterator<Item = Self> {
        [("host", "host", '1'), ("none", "null", '2')].into_iter().map(|(name, driver, digit)| {
            Self {
                id: digit.to_string().repeat(64),
                name: name.to_owned(),
                driver: driver.to_owned(),
                ipv4: true,
                ipv6: false,
                internal: false,
                labels: BTreeMap::new(),
                created: jiff::Timestamp::UNIX_EPOCH,
            }
        })
    }

    fn row(self, id: String) -> Row {
        let created = self.created.to_zoned(TimeZone::system());
        let labels: Vec<String> =
            self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let fields = [
            ("CreatedAt", created.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()),
            ("Driver", self.driver),
            ("ID", id),
            ("IPv4", self.ipv4.to_string()),
            ("IPv6", self.ipv6.to_string()),
            ("Internal", self.internal.to_string()),
            ("Labels", labels.join(",")),
            ("Name", self.name),
            ("Scope", "local".to_owned()),
        ];
        let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value)));
        Row { fields: fields.collect(), labels: self.labels }
    }
}
