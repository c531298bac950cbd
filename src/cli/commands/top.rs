//! `top`: the processes of a container, in columns.

use std::process::ExitCode;

use super::super::{
    args::life::Top,
    output::{self, table::align, visible},
};
use crate::{
    engine::Engine,
    error::{Error, Result},
};

pub fn top(engine: &Engine, args: &Top) -> Result<ExitCode> {
    let newest = if args.latest { Some(engine.newest()?.to_string()) } else { None };
    let words = args.container_and_options.as_slice();
    let split = match &newest {
        Some(newest) => Some((newest, words)),
        None => words.split_first(),
    };
    let Some((container, options)) = split else {
        return Err(Error::invalid("\"dhow top\" requires at least 1 argument"));
    };
    if container.starts_with('-') {
        return Err(super::super::args::unknown_flag("top", container));
    }
    let processes = engine.top(&engine.find(container)?, options)?;
    let lines = [processes.titles].into_iter().chain(processes.rows);
    let text = lines.fold(String::new(), |mut text, cells| {
        // Processes choose their own names.
        let cells: Vec<_> = cells.iter().map(|cell| visible(cell)).collect();
        text.push_str(&cells.join("\t"));
        text.push('\n');
        text
    });
    output::print(&align(&text))?;
    Ok(ExitCode::SUCCESS)
}
