//! `stats`: a table of what containers use, again and again.

use std::{collections::HashMap, process::ExitCode, thread, time::Duration};

use serde_json::{Map, Value};

use super::super::{
    args::watch::Stats,
    output::{
        self,
        table::{Row, listing},
        units,
    },
};
use crate::{
    engine::{
        Engine,
        container::{list::Query, stats::Sample},
    },
    error::{Error, Result},
    state::ContainerId,
};

const TABLE: &str = "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

const HEADERS: [(&str, &str); 9] = [
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

/// Between the two readings that a share of CPU time is told from.
const FIRST: Duration = Duration::from_millis(250);
/// What nobody counts here.
const UNKNOWN: &str = "--";

pub fn stats(engine: &Engine, args: &Stats) -> Result<ExitCode> {
    let mut ids: Vec<ContainerId> =
        args.containers.iter().map(|name| engine.find(name)).collect::<Result<_>>()?;
    if args.latest {
        let query = Query { last: Some(1), ..Query::default() };
        let newest = engine.containers(&query)?.containers.into_iter().next();
        ids.push(newest.ok_or_else(|| Error::not_found("there is no container"))?.id);
    }
    let mut earlier = by_id(engine.stats(&ids, args.all)?);
    thread::sleep(FIRST);
    loop {
        let samples = engine.stats(&ids, args.all)?;
        let rows: Vec<Row> = samples
            .iter()
            .map(|sample| row(sample, earlier.get(&sample.id), !args.no_trunc))
            .collect();
        let mut text = Vec::new();
        listing(&rows, args.format.as_deref(), TABLE, &HEADERS, &mut text)?;
        let text = String::from_utf8_lossy(&text);
        if args.no_stream {
            output::print(&text)?;
            return Ok(ExitCode::SUCCESS);
        }
        let clear = if args.no_reset || args.format.is_some() { "" } else { "\x1b[H\x1b[2J" };
        if !output::print_on(&format!("{clear}{text}"))? {
            return Ok(ExitCode::SUCCESS);
        }
        earlier = by_id(samples);
        thread::sleep(Duration::from_secs(args.interval.max(1)));
    }
}

fn by_id(samples: Vec<Sample>) -> HashMap<ContainerId, Sample> {
    samples.into_iter().map(|sample| (sample.id.clone(), sample)).collect()
}

fn row(sample: &Sample, earlier: Option<&Sample>, short: bool) -> Row {
    let id = if short { sample.id.short() } else { sample.id.as_str() };
    // Docker: one that does not run uses nothing.
    let or_nothing = |value: Option<String>, nothing: &str| match value {
        Some(value) => value,
        None if sample.is_running => UNKNOWN.to_owned(),
        None => nothing.to_owned(),
    };
    let pair = |pair: Option<(u64, u64)>, size: fn(u64) -> String| {
        pair.map(|(one, other)| format!("{} / {}", size(one), size(other)))
    };
    let memory = sample.memory.zip(sample.memory_limit);
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let share = memory.map(|(used, limit)| 100.0 * used as f64 / limit.max(1) as f64);
    let percent = |share: Option<f64>| share.map(|share| format!("{share:.2}%"));
    let unknown_pair = if sample.is_running { "-- / --" } else { "0B / 0B" };
    let mut fields = Map::new();
    let mut put = |name: &str, value: String| fields.insert(name.to_owned(), Value::String(value));
    put("Container", id.to_owned());
    put("ID", id.to_owned());
    put("Name", sample.name.clone());
    put("CPUPerc", or_nothing(percent(sample.cpu_percent(earlier)), "0.00%"));
    put("MemUsage", pair(memory, units::bytes_size).unwrap_or_else(|| unknown_pair.into()));
    put("MemPerc", or_nothing(percent(share), "0.00%"));
    put("NetIO", pair(sample.network, units::short_size).unwrap_or_else(|| unknown_pair.into()));
    put("BlockIO", pair(sample.block, units::short_size).unwrap_or_else(|| unknown_pair.into()));
    put("PIDs", or_nothing(sample.pids.map(|count| count.to_string()), "0"));
    Row { fields, ..Row::default() }
}
