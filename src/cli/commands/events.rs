//! `events`: a line for each thing that happens.

use std::{ops::ControlFlow, process::ExitCode};

use jiff::{Zoned, tz::TimeZone};
use serde_json::{Value, json};

use super::super::{
    args::watch::Events,
    output::{
        self,
        template::{Template, View},
        visible,
    },
    value::time,
};
use crate::{
    engine::{
        Engine,
        events::{EventFilters, EventQuery},
    },
    error::Result,
    state::journal::Event,
};

pub fn events(engine: &Engine, args: &Events) -> Result<ExitCode> {
    let now = Zoned::now();
    let moment = |text: &Option<String>| {
        text.as_deref().filter(|text| !text.is_empty()).map(|text| time::moment(text, &now))
    };
    let since = moment(&args.since).transpose()?;
    // Podman: without a stream, and without a beginning, all there is.
    let since = since.or_else(|| (!args.stream).then_some(jiff::Timestamp::UNIX_EPOCH));
    let query = EventQuery {
        since,
        until: moment(&args.until).transpose()?,
        only_past: !args.stream,
        filters: EventFilters::parse(&args.filter)?,
    };
    let format = args.format.as_deref().filter(|format| !format.is_empty());
    let template = format.filter(|format| *format != "json").map(Template::parse).transpose()?;
    let zone = TimeZone::system();
    let mut outcome = Ok(());
    engine.events(&query, &mut |event| {
        let line = match (&template, format) {
            (Some(template), _) => {
                let view = View { strict: true, ..View::default() };
                template.render(&described(event), view)
            }
            (None, Some(_)) => serde_json::to_string(&described(event)).map_err(Into::into),
            (None, None) => Ok(line(event, &zone)),
        };
        match line.and_then(|line| output::print_on(&(line + "\n"))) {
            Ok(true) => return ControlFlow::Continue(()),
            Ok(false) => {}
            Err(err) => outcome = Err(err),
        }
        ControlFlow::Break(())
    })?;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// `TIME TYPE ACTION ID (key=value, ...)`.
fn line(event: &Event, zone: &TimeZone) -> String {
    let time = event.time.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string();
    let attributes: Vec<String> =
        event.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let about = match attributes.as_slice() {
        [] => String::new(),
        attributes => format!(" ({})", attributes.join(", ")),
    };
    visible(&format!("{time} {} {} {}{about}", event.kind, event.action, event.id)).into_owned()
}

/// Docker's fields, the old ones included.
fn described(event: &Event) -> Value {
    let from = event.attributes.get("image").cloned().unwrap_or_default();
    json!({
        "status": event.action,
        "id": event.id,
        "from": from,
        "Type": event.kind,
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "scope": "local",
        "time": event.time.as_second(),
        "timeNano": i64::try_from(event.time.as_nanosecond()).unwrap_or(i64::MAX),
        // Templates of docker's old fields begin with a capital.
        "ID": event.id,
        "Status": event.action,
        "From": from,
        "Time": event.time.as_second(),
        "TimeNano": i64::try_from(event.time.as_nanosecond()).unwrap_or(i64::MAX),
    })
}
