//! Flags that are on or off, with a truth behind `=`: `--rm=true`, `-it=false`.
//!
//! Docker's and podman's flags take one (pflag, "Command line flag syntax"), and scripts write it.
//! Ours that need none refuse it; then the word is written as they want it, and all is read again.

use std::ffi::OsString;

use clap::{
    Parser as _,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{
    args::{Cli, Command, ContainerCommand},
    value::boolean,
};

/// Reads a whole command line; `args` begins with the program's name.
pub(super) fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    let mut words = args.to_vec();
    loop {
        match Cli::try_parse_from(&words) {
            Err(err) if err.kind() == ErrorKind::TooManyValues && said_of(&mut words, &err) => {}
            Err(err) if err.kind() == ErrorKind::UnknownArgument && of_letters(&mut words) => {}
            Ok(cli) if !is_plain(&cli) && of_letters(&mut words) => {}
            outcome => return outcome,
        }
    }
}

/// Whether no truth stands where an image or a container is to be: neither is called so.
pub(super) fn is_plain(cli: &Cli) -> bool {
    open(cli).is_none_or(|word| letters(word).is_none())
}

/// Writes the word otherwise that a flag has refused; `false` if it is not about a truth.
fn said_of(words: &mut Vec<OsString>, err: &clap::Error) -> bool {
    let (Some(ContextValue::String(value)), Some(ContextValue::String(flag))) =
        (err.get(ContextKind::InvalidValue), err.get(ContextKind::InvalidArg))
    else {
        return false;
    };
    let Some(truth) = boolean(value) else { return false };
    // In the first of its words: what follows an image is its command's.
    let typed = format!("{flag}={value}");
    let Some(at) = words.iter().position(|word| *word == *typed) else { return false };
    match truth {
        true => words[at] = flag.into(),
        false => drop(words.remove(at)),
    }
    true
}

/// The same for the first word of letters with a truth: the last letter has it.
fn of_letters(words: &mut Vec<OsString>) -> bool {
    let found = words.iter().enumerate().skip(1).find_map(|(at, word)| {
        let (letters, truth) = letters(word.to_str()?)?;
        Some((at, letters.to_owned(), truth))
    });
    let Some((at, mut letters, truth)) = found else { return false };
    if !truth {
        letters.pop();
    }
    match letters.as_str() {
        "-" => drop(words.remove(at)),
        letters => words[at] = letters.into(),
    }
    true
}

/// `-it=true`.
fn letters(word: &str) -> Option<(&str, bool)> {
    let (letters, value) = word.split_once('=')?;
    let bare = letters.strip_prefix('-').filter(|bare| !bare.is_empty())?;
    let are_letters = bare.bytes().all(|byte| byte.is_ascii_alphabetic());
    boolean(value).filter(|_| are_letters).map(|truth| (letters, truth))
}

/// What stands where an image or a container is to be, of a command that takes any word there.
fn open(cli: &Cli) -> Option<&str> {
    let words =
        if let Command::Run(run) | Command::Container(ContainerCommand::Run(run)) = &cli.command {
            &run.container.image_and_command
        } else if let Command::Create(made) | Command::Container(ContainerCommand::Create(made)) =
            &cli.command
        {
            &made.container.image_and_command
        } else if let Command::Exec(exec) | Command::Container(ContainerCommand::Exec(exec)) =
            &cli.command
        {
            &exec.container_and_command
        } else {
            return None;
        };
    words.first().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<String, clap::Error> {
        let words: Vec<_> = line.split(' ').map(OsString::from).collect();
        parse(&words).map(|cli| format!("{:?}", cli.command))
    }

    #[test]
    fn a_truth_is_what_the_bare_flag_says_or_leaves() {
        for (typed, plain) in [
            ("dhow run --rm=true --privileged=false x a --rm=true", "dhow run --rm x a --rm=true"),
            ("dhow run -it=true --init=1 x", "dhow run -it --init x"),
            ("dhow run -it=false -d=F x", "dhow run -i x"),
            ("dhow run -t=false x -t=false", "dhow run x -t=false"),
            ("dhow ps -a=true --no-trunc=T -q=0", "dhow ps -a --no-trunc"),
            ("dhow rm --force=true x", "dhow rm -f x"),
            ("dhow logs -f=false --timestamps=True x", "dhow logs -t x"),
        ] {
            assert_eq!(read(typed).expect(typed), read(plain).expect(plain), "{typed}");
        }
        for wrong in ["dhow run --rm=maybe x", "dhow run --rm= x", "dhow ps --last=true"] {
            read(wrong).expect_err(wrong);
        }
    }
}
