//! A Dockerfile is read or refused, with words about the place; `.dockerignore` likewise.
#![no_main]

use dhow::build::{Dockerfile, Ignore, Source, expand, lex};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: dhow_fuzz::sow("dockerfile", false), |text: &str| {
    let variable = |name: &str| (name.len() % 2 == 0).then(|| "va lue".to_owned());
    if let Ok(file) = Dockerfile::read(Source::new("Dockerfile", text), &variable, &|_| None) {
        if let Ok(target) = file.target(None) {
            // Stages may copy from each other in a circle.
            let needed = file.needed(target).unwrap_or_else(|_| vec![target]);
            assert!(needed.contains(&target) && needed.iter().all(|&n| n < file.stages.len()));
        }
    }
    drop(lex::lex(&Source::new("Dockerfile", text)));
    for escape in ['\\', '`'] {
        drop(expand::word(text, escape, &variable));
        drop(expand::words(text, escape, &variable));
        drop(expand::heredoc(text, &variable));
    }
    if let Ok(ignore) = Ignore::parse(text) {
        ignore.ignores("a/b/c.txt");
        ignore.ignores(text.lines().next().unwrap_or_default());
    }
});
