//! Platforms: what an image is built for, and which of an index's images suits this one best.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// An operating system, an architecture and perhaps a variant, in Go's words and normalised:
/// `linux/amd64`, `linux/arm/v7`; never `x86_64`, never `arm64/v8` (image-spec image-index.md,
/// "Platform Variants"; containerd's `platforms.Normalize`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// Go's GOOS.
    pub os: String,
    /// Go's GOARCH.
    pub architecture: String,
    /// `v7` of arm, `v3` of amd64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// What each x86-64 level adds, in /proc/cpuinfo's words (x86-64 psABI, "Micro-Architecture
/// Levels"). `pni` is SSE3 and `abm` LZCNT; OSXSAVE has no flag of its own beside `xsave`.
const AMD64_LEVELS: [(&str, &[&str]); 3] = [
    ("v2", &["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"]),
    ("v3", &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"]),
    ("v4", &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
];

impl Platform {
    /// Normalises what an image or a user says.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let (architecture, variant) = normalise(architecture, variant.unwrap_or_default());
        Self { os, architecture, variant: (!variant.is_empty()).then_some(variant) }
    }

    /// This machine: `machine` in uname(2)'s or Rust's words, `cpu_flags` as the `flags` line of
    /// /proc/cpuinfo has them (only looked at for amd64).
    pub fn host(machine: &str, cpu_flags: &str) -> Self {
        let mut platform = Self::new("linux", machine, None);
        if platform.architecture == "amd64" {
            let has = |flag: &&str| cpu_flags.split_ascii_whitespace().any(|f| f == *flag);
            let reached = AMD64_LEVELS.iter().take_while(|(_, flags)| flags.iter().all(has));
            platform.variant = reached.last().map(|(level, _)| (*level).to_owned());
        }
        platform
    }

    /// The platforms whose programs run here, best first, as containerd's `platforms.Only`.
    fn runnable(&self) -> Vec<Self> {
        let with = |architecture: &str, variant: Option<String>| Self {
            os: self.os.clone(),
            architecture: architecture.into(),
            variant,
        };
        let mut all = vec![self.clone()];
        let number = |default| {
            let digits = self.variant.as_deref().and_then(|v| v.strip_prefix('v'));
            digits.and_then(|digits| digits.parse::<u8>().ok()).unwrap_or(default)
        };
        match self.architecture.as_str() {
            "amd64" => {
                let lower = (1..number(1)).rev();
                all.extend(lower.map(|n| with("amd64", (n > 1).then(|| format!("v{n}")))));
                all.push(with("386", None));
            }
            "arm64" => {
                if self.variant.is_some() {
                    all.push(with("arm64", None));
                }
                all.extend((5..=8).rev().map(|n| with("arm", Some(format!("v{n}")))));
            }
            "arm" => {
                all.extend((5..number(7)).rev().map(|n| with("arm", Some(format!("v{n}")))));
            }
            _ => {}
        }
        all
    }

    /// How well an image for `other` runs here: 0 is best, `None` not at all.
    pub fn rank(&self, other: &Self) -> Option<usize> {
        self.runnable().iter().position(|runnable| runnable == other)
    }

    /// The index of the candidate that suits best; of equals, the first.
    pub fn best<'a>(&self, candidates: impl IntoIterator<Item = &'a Self>) -> Option<usize> {
        let ranked = candidates.into_iter().enumerate();
        ranked
            .filter_map(|(index, candidate)| Some((self.rank(candidate)?, index)))
            .min()
            .map(|(_, index)| index)
    }
}

/// containerd's `normalizeArch`: one spelling for each architecture, no variant where it is the
/// architecture's base.
fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match architecture.to_ascii_lowercase().as_str() {
        "x86_64" | "x86-64" | "amd64" => {
            ("amd64".into(), if variant == "v1" { String::new() } else { variant })
        }
        "i386" | "i486" | "i586" | "i686" | "x86" | "386" => ("386".into(), String::new()),
        "aarch64" | "arm64" => {
            ("arm64".into(), if matches!(&*variant, "8" | "v8") { String::new() } else { variant })
        }
        "armhf" | "armv7l" => ("arm".into(), "v7".into()),
        "armel" | "armv6l" => ("arm".into(), "v6".into()),
        "arm" => match variant.as_str() {
            "" | "7" => ("arm".into(), "v7".into()),
            "5" | "6" | "8" => ("arm".into(), format!("v{variant}")),
            _ => ("arm".into(), variant),
        },
        other => (other.into(), variant),
    };
    (architecture, variant)
}

const KNOWN_OS: [&str; 6] = ["linux", "windows", "darwin", "macos", "freebsd", "wasip1"];
const KNOWN_ARCHITECTURES: [&str; 11] = [
    "amd64", "386", "arm64", "arm", "riscv64", "ppc64le", "ppc64", "s390x", "loong64", "mips64le",
    "wasm",
];

impl FromStr for Platform {
    type Err = Error;

    /// Parses `--platform`: `os/arch[/variant]`, or `os` or `arch` alone.
    fn from_str(text: &str) -> Result<Self> {
        let sane = |part: &&str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
            !part.is_empty() && part.len() <= 64 && part.bytes().all(allowed)
        };
        let parts: Vec<&str> = text.split('/').collect();
        let invalid = || {
            Error::invalid(format!(
                "invalid platform {:?}",
                text.chars().take(100).collect::<String>()
            ))
            .hint("a platform is os/arch[/variant], e.g. linux/amd64 or linux/arm/v7")
        };
        if !parts.iter().all(sane) {
            return Err(invalid());
        }
        match parts[..] {
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os] if KNOWN_OS.contains(&os.to_ascii_lowercase().as_str()) => {
                Ok(Self::new(os, std::env::consts::ARCH, None))
            }
            [alone] => {
                let platform = Self::new("linux", alone, None);
                let known = KNOWN_ARCHITECTURES.contains(&platform.architecture.as_str());
                known.then_some(platform).ok_or_else(invalid)
            }
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl From<&oci_spec::image::Platform> for Platform {
    fn from(platform: &oci_spec::image::Platform) -> Self {
        Self::new(
            &platform.os().to_string(),
            &platform.architecture().to_string(),
            platform.variant().as_deref(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().expect(text)
    }

    #[test]
    fn spellings_meet() {
        for (typed, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("x86_64", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("Linux/AMD64", "linux/amd64"),
            ("darwin/arm64", "darwin/arm64"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(platform(typed).to_string(), normal, "{typed}");
        }
        for bad in ["", "/", "linux/", "linux//v8", "a/b/c/d", "potato", "linux/amd64\n", "*/*"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_hosts_level_follows_its_flags() {
        let v2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3";
        let v3 = format!("{v2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave");
        assert_eq!(Platform::host("x86_64", "fpu avx2").to_string(), "linux/amd64");
        assert_eq!(Platform::host("x86_64", v2).to_string(), "linux/amd64/v2");
        assert_eq!(Platform::host("x86_64", &v3).to_string(), "linux/amd64/v3");
        assert_eq!(Platform::host("aarch64", &v3).to_string(), "linux/arm64");
    }

    #[test]
    fn the_best_that_runs_is_chosen() {
        let best = |host: &str, offered: &[&str]| {
            let offered: Vec<_> = offered.iter().map(|text| platform(text)).collect();
            platform(host).best(&offered)
        };
        let levels = ["linux/arm64", "linux/amd64", "linux/amd64/v3", "linux/amd64/v4"];
        assert_eq!(best("linux/amd64/v3", &levels), Some(2));
        assert_eq!(best("linux/amd64/v2", &levels), Some(1));
        assert_eq!(best("linux/amd64", &["linux/386"]), Some(0));
        assert_eq!(best("linux/arm64", &["linux/arm/v6", "linux/arm/v7"]), Some(1));
        assert_eq!(best("linux/arm/v6", &["linux/arm/v7", "linux/arm/v5"]), Some(1));
        assert_eq!(best("linux/amd64", &["windows/amd64", "linux/amd64/v2"]), None);
        assert_eq!(best("linux/amd64", &["linux/amd64", "linux/amd64"]), Some(0));
    }
}
