//! Signals by name and number.

use crate::error::{Error, Result};

/// Names by number, from 1 (`signal(7)`, x86 and arm).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// glibc's and musl's first real-time signal a program may use: the two below are theirs.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// A signal's number: `TERM`, `SIGTERM`, `15`, `RTMIN+3`, in either case.
pub fn parse(text: &str) -> Result<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match text.parse::<u8>() {
        Ok(number) => Some(i32::from(number)),
        Err(_) => named(name).or_else(|| real_time(name)),
    };
    number.filter(|number| (1..=RTMAX).contains(number)).ok_or_else(|| {
        Error::invalid(format!("invalid signal: {text}"))
            .hint("write a name such as TERM or SIGTERM, or a number from 1 to 64")
    })
}

fn named(name: &str) -> Option<i32> {
    let name = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        other => other,
    };
    (1..).zip(SIGNALS).find(|(_, known)| *known == name).map(|(number, _)| number)
}

fn real_time(name: &str) -> Option<i32> {
    let offset = |text: &str, sign: char| match text {
        "" => Some(0),
        _ => text.strip_prefix(sign)?.parse::<u8>().ok().map(i32::from),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RTMIN + offset(rest, '+')?
    } else {
        RTMAX - offset(name.strip_prefix("RTMAX")?, '-')?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// `SIGTERM` for 15, `SIGRTMIN+1` for 35; the number itself where there is no name.
pub fn name(number: i32) -> String {
    let named = usize::try_from(number - 1).ok().and_then(|index| SIGNALS.get(index));
    match named {
        Some(name) => format!("SIG{name}"),
        None if number == RTMIN => "SIGRTMIN".into(),
        None if (RTMIN..=RTMAX).contains(&number) => format!("SIGRTMIN+{}", number - RTMIN),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("sigkill", 9),
            ("SIGSYS", 31),
            ("9", 9),
            ("POLL", 29),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(parse(text).ok(), Some(number), "{text}");
        }
        for bad in ["", "0", "65", "-9", "FOO", "SIG", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMAX-31"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!((1..=64).all(|n| matches!(n, 32 | 33) || parse(&name(n)).ok() == Some(n)));
        assert_eq!(name(32), "32");
    }

    #[test]
    fn the_signal_table_is_the_kernels() {
        for (number, name) in (1..).zip(SIGNALS) {
            let signal = nix::sys::signal::Signal::try_from(number).expect("a standard signal");
            assert_eq!(signal.as_str(), format!("SIG{name}"));
        }
    }
}
