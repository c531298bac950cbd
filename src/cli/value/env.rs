//! Keys and values: environment, labels, sysctls, filters, log options.

use std::path::{Path, PathBuf};

use crate::{
    error::{Context, Error, Result},
    run::log::{JOURNAL_SOCKET, check_tag, journal_is_there},
    state::record::{LogConfig, LogDriver},
};

/// The environment a bare `-e NAME` is taken from: a function, so that a test can be any shell.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `-e NAME=VALUE`, or `-e NAME` with the value from `lookup`.
///
/// A bare name that is not set comes back bare, which (docker's rule) takes the variable out of
/// the image's environment.
pub fn env(text: &str, lookup: Lookup<'_>) -> Result<String> {
    let (name, value) = cut(text);
    if name.is_empty() {
        return Err(Error::invalid(format!("invalid environment variable: {text}"))
            .hint("write NAME=VALUE, or NAME to pass on a variable of your own"));
    }
    Ok(match value.map(str::to_owned).or_else(|| lookup(name)) {
        Some(value) => format!("{name}={value}"),
        None => name.to_owned(),
    })
}

/// `-l KEY=VALUE`; a bare `KEY` has an empty value.
pub fn label(text: &str) -> Result<(String, String)> {
    let (key, value) = cut(text);
    if key.is_empty() {
        return Err(Error::invalid(format!("invalid label '{text}': empty name")));
    }
    if key.contains(char::is_whitespace) {
        return Err(Error::invalid(format!("label '{key}' contains whitespaces")));
    }
    Ok((key.to_owned(), value.unwrap_or_default().to_owned()))
}

/// `--env-file`: each line as by [`parse_env_file`].
pub fn read_env_file(path: &Path, lookup: Lookup<'_>) -> Result<Vec<String>> {
    let content = std::fs::read(path).at(path).doing("read the env file")?;
    parse_env_file(&content, &path.display().to_string(), lookup)
}

/// `--label-file`: the lines of an env file, read as labels.
pub fn read_label_file(path: &Path) -> Result<Vec<(String, String)>> {
    let content = std::fs::read(path).at(path).doing("read the label file")?;
    let lines = key_value_lines(&content, &path.display().to_string(), "label")?;
    Ok(lines
        .into_iter()
        // Docker: a name alone is no label here, though it is one on the command line.
        .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
        .collect())
}

/// Docker's env-file rules: one `NAME=VALUE` a line, taken literally (no quotes, no expansion,
/// no `export`); blank lines and those whose first mark is `#` are skipped, as is a byte order
/// mark; a bare `NAME` is passed on from `lookup` if it is set there. `name` is for messages.
pub fn parse_env_file(content: &[u8], name: &str, lookup: Lookup<'_>) -> Result<Vec<String>> {
    let lines = key_value_lines(content, name, "variable")?;
    Ok(lines
        .into_iter()
        .filter_map(|(key, value)| {
            value.map(str::to_owned).or_else(|| lookup(key)).map(|value| format!("{key}={value}"))
        })
        .collect())
}

type Line<'a> = (&'a str, Option<&'a str>);

fn key_value_lines<'a>(content: &'a [u8], file: &str, what: &str) -> Result<Vec<Line<'a>>> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut found = Vec::new();
    for (number, line) in (1..).zip(content.split(|&b| b == b'\n')) {
        let bad = |said: String| Error::invalid(format!("{file}:{number}: {said}"));
        let line = str::from_utf8(line).map_err(|_| {
            bad("invalid utf8 bytes".into()).hint("save the file as UTF-8, or remove the line")
        })?;
        let line = line.strip_suffix('\r').unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = cut(line);
        if key.contains(char::is_whitespace) {
            return Err(bad(format!("{what} '{key}' contains whitespaces"))
                .hint("write NAME=VALUE with no space before the `=` and no `export`"));
        }
        if key.is_empty() {
            return Err(bad(format!("no {what} name on line '{line}'")));
        }
        if line.contains('\0') {
            return Err(bad(format!("{what} '{key}' contains a NUL byte")));
        }
        found.push((key, value));
    }
    Ok(found)
}

/// `--sysctl NAME=VALUE`, for the names that belong to a container's own namespaces: docker's
/// list (`net.*`, `fs.mqueue.*` and the System V ones of `kernel.*`).
pub fn sysctl(text: &str) -> Result<(String, String)> {
    const KERNEL: [&str; 8] =
        ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let (name, value) = cut(text);
    // Names become paths below /proc/sys: a dot is a slash, so an empty part would be one of
    // `//` and a slash could bring in `..`.
    let plain = name.split('.').all(|part| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    });
    let namespaced = name.starts_with("net.")
        || name.starts_with("fs.mqueue.")
        || name.strip_prefix("kernel.").is_some_and(|rest| KERNEL.contains(&rest));
    match value {
        Some(value) if plain && namespaced => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Error::invalid(format!("sysctl '{text}' is not allowed")).hint(
            "write NAME=VALUE with a name under net. or fs.mqueue., or one of kernel.msg*, kernel.sem and kernel.shm*; others would change the host",
        )),
    }
}

/// `--filter KEY=VALUE`. Which keys a listing knows is its own business.
pub fn filter(text: &str) -> Result<(String, String)> {
    match cut(text) {
        (key, Some(value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_ascii_lowercase(), value.trim().to_owned()))
        }
        _ => Err(Error::invalid("bad format of filter (expected name=value)")
            .hint("for example --filter name=web or --filter label=tier=db")),
    }
}

/// `--log-opt KEY=VALUE`, syntax only; [`log_config`] knows the keys.
pub fn log_opt(text: &str) -> Result<(String, String)> {
    match cut(text) {
        (key, Some(value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::invalid(format!("invalid log option '{text}'"))
            .hint("write KEY=VALUE, for example --log-opt max-size=10m")),
    }
}

/// `--log-driver` and every `--log-opt` together. Where no driver was typed it is `local`, or
/// `json-file`, docker's default, for options that only that one knows.
pub fn log_config(typed: Option<&str>, options: &[(String, String)]) -> Result<LogConfig> {
    let suits = |driver| options.iter().all(|(key, _)| knows(driver, key));
    let driver = match typed {
        Some(name) => log_driver(name)?,
        None if suits(LogDriver::default()) => LogDriver::default(),
        None => LogDriver::JsonFile,
    };
    let mut config = LogConfig { driver, ..LogConfig::default() };
    if typed.is_some() && driver == LogDriver::Local {
        // moby daemon/logger/local/config.go: who asks for it gets this much of the output. Who
        // does not, all of it.
        (config.max_size, config.max_file) = (Some(20_000_000), 5);
    }
    for (key, value) in options {
        if !knows(driver, key) {
            let driver = driver.name();
            return Err(Error::invalid(format!("unknown log opt '{key}' for {driver} log driver")));
        }
        match key.as_str() {
            "max-size" => config.max_size = max_size(value)?,
            "max-file" => config.max_file = max_file(value)?,
            "path" => config.path = Some(log_path(value)?),
            "mode" => config.non_blocking = is_non_blocking(value)?,
            "max-buffer-size" => config.max_buffer = max_size(value).doing("max-buffer-size")?,
            "tag" => check_tag(value)?,
            "compress" => config.compress = truth(key, value)?,
            "labels-regex" | "env-regex" => {
                regex_lite::Regex::new(value)
                    .map_err(|err| Error::invalid(format!("{key}: {err}")))?;
            }
            _ => {}
        }
        config.options.insert(key.clone(), value.clone());
    }
    let is_typed = |key: &str| config.options.contains_key(key);
    if config.max_size.is_none() && !is_typed("max-file") {
        config.max_file = 1;
    }
    if config.max_file > 1 && config.max_size.is_none() {
        return Err(Error::invalid("max-file cannot be set without max-size")
            .hint("add --log-opt max-size=10m"));
    }
    let rotates = config.max_file > 1 && config.max_size.is_some();
    if typed.is_some() && driver == LogDriver::Local && !config.options.contains_key("compress") {
        config.compress = rotates;
    }
    if config.compress && !rotates {
        return Err(Error::invalid(
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        )
        .hint("add --log-opt max-size=10m --log-opt max-file=3"));
    }
    if config.max_buffer.is_some() && !config.non_blocking {
        return Err(Error::invalid(
            "max-buffer-size option is only supported with 'mode=non-blocking'",
        ));
    }
    Ok(config)
}

/// A driver's name, docker's or podman's.
fn log_driver(name: &str) -> Result<LogDriver> {
    const REMOTE: [&str; 10] = [
        "awslogs",
        "etwlogs",
        "fluentd",
        "gcplogs",
        "gelf",
        "logentries",
        "splunk",
        "syslog",
        "loki",
        "datadog",
    ];
    if let Some((_, driver)) = LogDriver::ALL.iter().find(|(known, _)| *known == name) {
        if *driver == LogDriver::Journald && !journal_is_there() {
            return Err(Error::unsupported(format!(
                "log driver journald: this machine has no journal, {JOURNAL_SOCKET} is not there"
            ))
            .hint("use json-file or k8s-file"));
        }
        return Ok(*driver);
    }
    if REMOTE.contains(&name) {
        return Err(Error::unsupported(format!(
            "log driver {name} is not in this version: dhow sends no log to other machines"
        ))
        .hint("keep the log with json-file, k8s-file or journald, and let the service's own agent send it"));
    }
    if name == "passthrough-tty" {
        return Err(Error::unsupported("log driver passthrough-tty is not in this version: a container with the caller's own terminal could type into it")
            .hint("use -it, which gives it a terminal of its own"));
    }
    let known: Vec<&str> = LogDriver::ALL.iter().map(|(name, _)| *name).collect();
    Err(Error::invalid(format!("logger: no log driver named '{name}' is registered"))
        .hint(format!("there are {}", known.join(", "))))
}

/// Whether `--log-opt KEY=…` means something to the driver.
fn knows(driver: LogDriver, key: &str) -> bool {
    let about = ["labels", "labels-regex", "env", "env-regex", "tag"];
    let waiting = ["mode", "max-buffer-size"];
    let rotation = ["max-size", "max-file"];
    match driver {
        LogDriver::JsonFile => {
            about.contains(&key)
                || waiting.contains(&key)
                || rotation.contains(&key)
                || matches!(key, "compress" | "path")
        }
        LogDriver::Local => waiting.contains(&key) || rotation.contains(&key) || key == "compress",
        LogDriver::K8sFile => waiting.contains(&key) || rotation.contains(&key) || key == "path",
        LogDriver::Journald => about.contains(&key) || waiting.contains(&key),
        LogDriver::Passthrough | LogDriver::None => false,
    }
}

fn truth(key: &str, value: &str) -> Result<bool> {
    value.parse().map_err(|_| Error::invalid(format!("{key}: '{value}' is neither true nor false")))
}

fn is_non_blocking(value: &str) -> Result<bool> {
    match value {
        "non-blocking" => Ok(true),
        "blocking" => Ok(false),
        other => Err(Error::invalid(format!("logger: logging mode not supported: {other}"))
            .hint("write blocking or non-blocking")),
    }
}

/// A file whose directory is there.
fn log_path(value: &str) -> Result<PathBuf> {
    let path = std::path::absolute(value).doing("find the log's path")?;
    match path.parent().is_some_and(Path::is_dir) && !path.is_dir() {
        true => Ok(path),
        false => Err(Error::invalid(format!("path: {value} is not the path of a file"))
            .hint("its directory must be there")),
    }
}

/// Bytes in powers of 1000, as docker's json-file driver counts them; -1 is no rotation.
fn max_size(value: &str) -> Result<Option<u64>> {
    if value == "-1" {
        return Ok(None);
    }
    match super::size::decimal_bytes(value).doing("max-size")? {
        0 => Err(Error::invalid(format!("max-size: invalid size: '{value}'"))
            .hint("it must be more than 0, or -1 for no rotation")),
        size => Ok(Some(size)),
    }
}

fn max_file(value: &str) -> Result<u32> {
    value.parse().ok().filter(|&n| n > 0).ok_or_else(|| {
        Error::invalid(format!("max-file: '{value}' is not a number of files"))
            .hint("it must be at least 1")
    })
}

fn cut(text: &str) -> (&str, Option<&str>) {
    text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/home/a".to_owned())
    }

    #[test]
    fn a_bare_variable_comes_from_the_caller_or_is_removed() {
        assert_eq!(env("A=b=c", &shell).ok().as_deref(), Some("A=b=c"));
        assert_eq!(env("A=", &shell).ok().as_deref(), Some("A="));
        assert_eq!(env("HOME", &shell).ok().as_deref(), Some("HOME=/home/a"));
        assert_eq!(env("NOT_SET", &shell).ok().as_deref(), Some("NOT_SET"));
        let err = env("=x", &shell).expect_err("no name");
        assert_eq!(err.to_string(), "invalid environment variable: =x");
        assert!(env("", &shell).is_err());
    }

    #[test]
    fn env_files_are_literal() {
        let file = b"\xef\xbb\xbfA=1\r\n# no\n\n  B=\"x y\" \n\t#C=1\nHOME\nNOT_SET\nD=a=b\nE=";
        assert_eq!(
            parse_env_file(file, "f", &shell).ok(),
            Some(["A=1", "B=\"x y\" ", "HOME=/home/a", "D=a=b", "E="].map(String::from).into())
        );
        for (content, said) in [
            (&b"A=1\nexport B=2"[..], "f:2: variable 'export B' contains whitespaces"),
            (b"\n=x\n", "f:2: no variable name on line '=x'"),
            (b"a\xff=x", "f:1: invalid utf8 bytes"),
            (b"A=\0", "f:1: variable 'A' contains a NUL byte"),
        ] {
            assert_eq!(parse_env_file(content, "f", &shell).expect_err("bad").to_string(), said);
        }
    }

    #[test]
    fn files_are_named_in_errors_and_hold_whole_labels() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("labels");
        let err = read_env_file(&path, &shell).expect_err("missing");
        assert!(err.to_string().ends_with("labels: No such file or directory"), "{err}");
        std::fs::write(&path, "a=1\nb\n").expect("write");
        let pair = ("a".to_owned(), "1".to_owned());
        assert_eq!(read_label_file(&path).ok(), Some(vec![pair]));
        std::fs::write(&path, "a b=1\n").expect("write");
        let err = read_label_file(&path).expect_err("whitespace");
        assert!(err.to_string().ends_with("labels:1: label 'a b' contains whitespaces"), "{err}");
    }

    #[test]
    fn labels_and_filters_need_a_name() {
        let pair = |k: &str, v: &str| Some((k.to_owned(), v.to_owned()));
        assert_eq!(label("a=b=c").ok(), pair("a", "b=c"));
        assert_eq!(label("a").ok(), pair("a", ""));
        assert_eq!(label("=x").expect_err("x").to_string(), "invalid label '=x': empty name");
        assert_eq!(label("a b=c").expect_err("x").to_string(), "label 'a b' contains whitespaces");
        assert_eq!(filter("Label=a=b").ok(), pair("label", "a=b"));
        assert_eq!(filter("name=").ok(), pair("name", ""));
        assert!(filter("name").is_err() && filter("=x").is_err());
    }

    #[test]
    fn only_a_containers_own_sysctls_pass() {
        for good in ["net.ipv4.ip_forward=1", "kernel.msgmax=", "fs.mqueue.msg_max=9"] {
            assert!(sysctl(good).is_ok(), "{good}");
        }
        for bad in [
            "net.x",
            "kernel.core_pattern=|/x",
            "vm.swappiness=1",
            "net..kernel=1",
            "net./../kernel/core_pattern=x",
            "net/ipv4/ip_forward=1",
            "net.=1",
            "=1",
            "kernel.msgmax.x=1",
        ] {
            let err = sysctl(bad).expect_err(bad);
            assert_eq!(err.to_string(), format!("sysctl '{bad}' is not allowed"));
        }
    }

    #[test]
    fn log_options_are_known_or_refused() {
        let options = |pairs: &[&str]| pairs.iter().map(|p| log_opt(p).expect("a pair")).collect();
        let some: Vec<_> = options(&["max-size=10m", "max-file=3"]);
        let config = log_config(None, &some).expect("valid");
        assert_eq!((config.max_size, config.max_file), (Some(10_000_000), 3));
        assert_eq!(log_config(None, &[]).expect("valid"), LogConfig::default());
        let local = log_config(Some("local"), &[]).expect("valid");
        assert_eq!((local.max_size, local.max_file), (Some(20_000_000), 5));
        assert_eq!(log_config(Some("none"), &[]).expect("valid").driver, LogDriver::None);
        for (driver, pairs, said) in [
            (None, options(&["foo=1"]), "unknown log opt 'foo' for json-file log driver"),
            (
                Some("none"),
                options(&["max-size=1m"]),
                "unknown log opt 'max-size' for none log driver",
            ),
            (None, options(&["max-file=2"]), "max-file cannot be set without max-size"),
            (None, options(&["max-size=x"]), "max-size: invalid size: 'x'"),
            (None, options(&["max-file=0"]), "max-file: '0' is not a number of files"),
            (
                None,
                options(&["tag={{.Nosuch}}"]),
                "the log tag's {{.Nosuch}} is not in this version",
            ),
            (
                None,
                options(&["compress=true"]),
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ),
            (None, options(&["compress=1"]), "compress: '1' is neither true nor false"),
            (None, options(&["mode=fast"]), "logger: logging mode not supported: fast"),
            (None, options(&["path=/nosuch/log"]), "path: /nosuch/log is not the path of a file"),
            (
                None,
                options(&["max-buffer-size=1m"]),
                "max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            (
                Some("syslog"),
                vec![],
                "log driver syslog is not in this version: dhow sends no log to other machines",
            ),
            (Some("nosuch"), vec![], "logger: no log driver named 'nosuch' is registered"),
        ] {
            assert_eq!(log_config(driver, &pairs).expect_err(said).to_string(), said);
        }
        assert!(log_opt("max-size").is_err());
    }
}
