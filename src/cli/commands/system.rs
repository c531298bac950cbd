//! `version`, `info`, `doctor`, and what is made when dhow is packaged: completions and manual
//! pages.

use std::{fmt::Write as _, fs, process::ExitCode};

use clap::CommandFactory as _;
use serde::Serialize;
use serde_json::json;

use super::super::{
    args::{
        Cli,
        system::{Completion, Doctor, Man},
    },
    exit,
    output::{
        self,
        template::{Template, View},
        units, visible,
    },
};
use crate::{
    engine::{
        Engine,
        doctor::{self, Finding, Grade},
        info::{Info, Version},
    },
    error::{Context as _, Error, Result},
    state::{Layout, record::Storage},
    sys::host::HostFacts,
};

/// `json`, a template, or what `text` makes.
fn print<T: Serialize>(
    value: &T,
    format: Option<&str>,
    text: impl FnOnce() -> String,
) -> Result<()> {
    let text = match format.unwrap_or_default() {
        "" => text(),
        "json" => serde_json::to_string(value)? + "\n",
        template => {
            let view = View { strict: true, ..View::default() };
            Template::parse(template)?.render(&serde_json::to_value(value)?, view)? + "\n"
        }
    };
    output::print(&text)
}

/// Needs no store. Docker's two halves are one program here, so each has the same to say.
pub fn version(format: Option<&str>) -> Result<ExitCode> {
    let version = Version::of(&HostFacts::gather()?.kernel);
    let both = json!({ "Client": version, "Server": version });
    print(&both, format, || {
        format!(
            "dhow:\n Version:         {}\n OS/Arch:         {}/{}\n Kernel Version:  {}\n",
            version.version, version.os, version.arch, version.kernel_version
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

pub fn info(engine: &Engine, format: Option<&str>) -> Result<ExitCode> {
    let info = engine.info()?;
    print(&info, format, || info_text(&info))?;
    if format.is_none() {
        for warning in &info.warnings {
            exit::note(&format!("WARNING: {warning}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn info_text(info: &Info) -> String {
    let yes_or_no = |yes| if yes { "yes" } else { "no" };
    let list = |words: &[String]| match words {
        [] => "none".to_owned(),
        words => words.join(" "),
    };
    let ids = &info.id_mapping;
    let mut text = format!("Containers: {}\n", info.containers);
    let mut line = |depth: usize, name: &str, value: &str| {
        let space = if value.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:depth$}{name}:{space}{}", "", visible(value));
    };
    line(1, "Running", &info.containers_running.to_string());
    line(1, "Stopped", &info.containers_stopped.to_string());
    if info.containers_damaged > 0 {
        line(1, "Damaged", &info.containers_damaged.to_string());
    }
    line(0, "Images", &info.images.to_string());
    line(0, "Version", &info.server_version);
    line(0, "Store", &info.docker_root_dir);
    line(0, "Runtime Directory", &info.run_root);
    line(0, "Storage Driver", &info.driver);
    line(1, "Reason", &info.overlay.reason);
    line(1, "Native Overlay", yes_or_no(info.overlay.native));
    if !info.overlay.native {
        line(1, "Refused", &info.overlay.refused);
    }
    if let Some(program) = &info.overlay.fuse {
        line(1, "fuse-overlayfs", &program.display().to_string());
    }
    line(0, "Logging Driver", &info.logging_driver);
    line(0, "Cgroup Driver", &info.cgroup_driver);
    line(0, "Cgroup Version", &info.cgroup_version);
    line(1, "Hierarchy", &info.cgroup.hierarchy);
    if !info.cgroup.mount.is_empty() {
        line(1, "Mounted at", &info.cgroup.mount);
    }
    line(1, "Controllers", &list(&info.cgroup.controllers));
    line(0, "Rootless", yes_or_no(info.rootless));
    line(1, "User", &info.user);
    line(1, "ID Mapping", &ids.rung);
    for (name, ranges) in [("UIDs", &ids.uid), ("GIDs", &ids.gid)] {
        if !ranges.is_empty() {
            line(2, name, &ranges.join(", "));
        }
    }
    line(0, "Security Options", "");
    line(1, "seccomp", if info.seccomp { "builtin" } else { "no" });
    line(1, "AppArmor", yes_or_no(info.app_armor));
    line(1, "SELinux", yes_or_no(info.selinux));
    line(0, "Kernel Version", &info.kernel_version);
    line(0, "Operating System", &info.operating_system);
    line(0, "OSType", &info.os_type);
    line(0, "Architecture", &info.architecture);
    line(0, "CPUs", &info.cpus.to_string());
    line(0, "Total Memory", &units::bytes_size(info.mem_total));
    line(0, "Name", &info.name);
    text
}

/// Looks at the host even if the store cannot be opened: that is when it is needed most.
pub fn doctor(layout: &Layout, storage: Option<Storage>, args: &Doctor) -> Result<ExitCode> {
    let findings = match args.format.as_str() {
        "text" | "json" => doctor::examine(layout, storage, &HostFacts::gather()?),
        other => {
            return Err(Error::invalid(format!("invalid argument {other:?} for --format"))
                .hint("a format is text or json"));
        }
    };
    let text = match args.format.as_str() {
        "json" => serde_json::to_string(&findings)? + "\n",
        _ => doctor_text(&findings),
    };
    output::print(&text)?;
    Ok(exit::code((doctor::worst(&findings) == Grade::Failure).into()))
}

fn doctor_text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let grade = match finding.grade {
            Grade::Ok => "ok",
            Grade::Warning => "warning",
            Grade::Failure => "failure",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{grade:<8} {}: {}", finding.check, lines(&finding.found, 11));
        for (name, said) in [("why", &finding.why), ("fix", &finding.fix)] {
            if !said.is_empty() {
                let _ = writeln!(text, "{:9}{name}: {}", "", lines(said, 14));
            }
        }
    }
    text
}

/// Text whose further lines stand under its first.
fn lines(text: &str, depth: usize) -> String {
    let lines: Vec<_> = text.lines().map(visible).collect();
    lines.join(&format!("\n{:depth$}", ""))
}

pub fn completion(args: &Completion) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dhow", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// One page a command: `dhow.1`, `dhow-run.1`, `dhow-container-ls.1`.
pub fn man(args: &Man) -> Result<ExitCode> {
    let dir = &args.directory;
    fs::create_dir_all(dir).at(dir).doing("create")?;
    clap_mangen::generate_to(Cli::command(), dir).at(dir).doing("write the manual pages")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_indented_under_their_grade() {
        let finding = |grade, why: &str, fix: &str| Finding {
            check: "kernel",
            grade,
            found: "Linux 5.4\x1b".into(),
            why: why.into(),
            fix: fix.into(),
        };
        let text = doctor_text(&[
            finding(Grade::Ok, "", ""),
            finding(Grade::Failure, "it is old", "one\ntwo"),
        ]);
        let expected = "\
ok       kernel: Linux 5.4\\x1b
failure  kernel: Linux 5.4\\x1b
         why: it is old
         fix: one
              two
";
        assert_eq!(text, expected);
    }

    #[test]
    fn every_command_has_a_page_and_a_completion() {
        let dir = tempfile::tempdir().expect("tempdir");
        man(&Man { directory: dir.path().join("man") }).expect("pages");
        for page in ["dhow.1", "dhow-run.1", "dhow-container-ls.1"] {
            let text = fs::read_to_string(dir.path().join("man").join(page)).expect(page);
            assert!(text.contains(".SH NAME"), "{page}");
        }
        assert!(!dir.path().join("man/dhow-completion.1").exists(), "hidden commands have none");
    }
}
