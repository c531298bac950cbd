//! Stages: the graph of a Dockerfile, and what of it a target needs.

use std::collections::BTreeSet;

use super::{
    expand::{self, Lookup},
    instruction::{Instruction, Kind, parse},
    source::Source,
};
use crate::error::{Error, Result};

/// A Dockerfile as stages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    pub source: Source,
    pub escape: char,
    /// `ARG`s before the first `FROM`.
    pub globals: Vec<(String, Option<String>)>,
    pub stages: Vec<Stage>,
}

/// From one `FROM` to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub name: Option<String>,
    pub base: Base,
    /// As written, with variables replaced.
    pub image: String,
    pub platform: Option<String>,
    /// The line of its `FROM`.
    pub line: usize,
    /// `FROM` is not among them.
    pub steps: Vec<Instruction>,
}

/// What a stage stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    Scratch,
    Image(String),
    /// An earlier stage, by its number.
    Stage(usize),
}

impl Stage {
    /// Puts an image in the place of what it stands on.
    pub fn stand_on(&mut self, image: &str) {
        image.clone_into(&mut self.image);
        self.base = match image {
            "scratch" => Base::Scratch,
            image => Base::Image(image.to_owned()),
        };
    }
}

impl Dockerfile {
    /// Reads it. `global` says what the variables are that the `FROM`s use, over the global ARGs'
    /// own defaults: the values given for the build, then those that a build always has.
    pub fn read(source: Source, given: Lookup<'_>, automatic: Lookup<'_>) -> Result<Self> {
        let (escape, instructions) = parse(&source)?;
        let mut file = Self { source, escape, globals: Vec::new(), stages: Vec::new() };
        for instruction in instructions {
            file.add(instruction, given, automatic)?;
        }
        if file.stages.is_empty() {
            return Err(Error::invalid(format!("{}: there is no FROM", file.source.name))
                .hint("a Dockerfile begins with `FROM image`"));
        }
        Ok(file)
    }

    fn add(
        &mut self,
        instruction: Instruction,
        given: Lookup<'_>,
        automatic: Lookup<'_>,
    ) -> Result<()> {
        let line = instruction.line;
        match (instruction.kind, self.stages.last_mut()) {
            (Kind::From { image, name, platform }, _) => {
                let value = |text: &str| {
                    let lookup = |name: &str| self.global(name, automatic);
                    expand::word(text, self.escape, &lookup)
                        .map_err(|err| self.source.blame(err, line))
                };
                let typed = image;
                let image = value(&typed)?;
                let platform = platform.map(|text| value(&text)).transpose()?;
                if image.is_empty() {
                    let said = format!("base name ({typed}) should not be blank");
                    return Err(self.source.error(line, &typed, said));
                }
                let base = match self.find(&image) {
                    _ if image == "scratch" => Base::Scratch,
                    Some(stage) => Base::Stage(stage),
                    None => Base::Image(image.clone()),
                };
                self.stages.push(Stage { name, base, image, platform, line, steps: Vec::new() });
            }
            (kind, Some(stage)) => {
                stage.steps.push(Instruction { line, text: instruction.text, kind });
            }
            (Kind::Arg(args), None) => {
                for (name, default) in args {
                    let lookup = |name: &str| self.global(name, automatic);
                    let default = default.map(|text| expand::word(&text, self.escape, &lookup));
                    let default =
                        default.transpose().map_err(|err| self.source.blame(err, line))?;
                    let value = given(&name).or(default);
                    self.globals.push((name, value));
                }
            }
            (_, None) => {
                return Err(self
                    .source
                    .error(line, "", "no build stage in current context")
                    .hint("only ARG may stand before the first FROM"));
            }
        }
        Ok(())
    }

    /// A variable as `FROM` sees it.
    pub fn global(&self, name: &str, automatic: Lookup<'_>) -> Option<String> {
        let declared = self.globals.iter().rev().find(|(global, _)| global == name);
        match declared {
            Some((_, Some(value))) => Some(value.clone()),
            _ => automatic(name),
        }
    }

    /// The latest stage of this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        let name = name.to_ascii_lowercase();
        self.stages.iter().rposition(|stage| stage.name.as_deref() == Some(&*name))
    }

    /// The stage that `--from` in stage `here` means: a name or a number, of an earlier one.
    pub fn earlier(&self, here: usize, from: &str) -> Result<Option<usize>> {
        let found = match from.parse::<usize>() {
            Ok(number) if number < self.stages.len() => Some(number),
            Ok(_) => return Err(Error::invalid(format!("there is no stage number {from}"))),
            Err(_) => {
                let name = from.to_ascii_lowercase();
                let named = |stage: &Stage| stage.name.as_deref() == Some(&*name);
                let before = self.stages[..here].iter().rposition(named);
                before.or_else(|| self.stages[here..].iter().position(named).map(|at| at + here))
            }
        };
        match found {
            Some(stage) if stage == here => Err(Error::invalid(format!(
                "circular dependency: the stage {from} copies from itself"
            ))),
            Some(stage) if stage > here => Err(Error::invalid(format!(
                "circular dependency: the stage {from} begins only later"
            ))),
            found => Ok(found),
        }
    }

    /// The stage to build: the last one, or that of this name or number.
    pub fn target(&self, wanted: Option<&str>) -> Result<usize> {
        let Some(wanted) = wanted.filter(|name| !name.is_empty()) else {
            return Ok(self.stages.len() - 1);
        };
        let number = wanted.parse::<usize>().ok().filter(|number| *number < self.stages.len());
        self.find(wanted).or(number).ok_or_else(|| {
            let names: Vec<&str> = self.stages.iter().filter_map(|s| s.name.as_deref()).collect();
            let error = Error::not_found(format!("target stage \"{wanted}\" could not be found"));
            match names.is_empty() {
                true => error.hint("the Dockerfile names no stage"),
                false => error.hint(format!("the stages are: {}", names.join(", "))),
            }
        })
    }

    /// The target and all it needs, in the order of the file.
    pub fn needed(&self, target: usize) -> Result<Vec<usize>> {
        let mut needed = BTreeSet::new();
        let mut pending = vec![target];
        while let Some(stage) = pending.pop() {
            if needed.insert(stage) {
                pending.extend(self.dependencies(stage)?);
            }
        }
        Ok(needed.into_iter().collect())
    }

    /// The stages that this one stands on, copies from and mounts.
    pub fn dependencies(&self, stage: usize) -> Result<BTreeSet<usize>> {
        let mut found = BTreeSet::new();
        if let Base::Stage(base) = self.stages[stage].base {
            found.insert(base);
        }
        for step in &self.stages[stage].steps {
            for from in sources(step) {
                let earlier = self.earlier(stage, from);
                found.extend(earlier.map_err(|err| self.source.blame(err, step.line))?);
            }
        }
        Ok(found)
    }
}

/// What an instruction takes files from, besides the context.
fn sources(step: &Instruction) -> Vec<&str> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others take files from nowhere")]
    match &step.kind {
        Kind::Copy(copy) => copy.from.as_deref().into_iter().collect(),
        Kind::Run(run) => run.mounts.iter().filter_map(|mount| mount.from.as_deref()).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Dockerfile> {
        Dockerfile::read(
            Source::new("D", text),
            &|name| (name == "given").then(|| "cli".to_owned()),
            &|name| (name == "TARGETARCH").then(|| "amd64".to_owned()),
        )
    }

    #[test]
    fn stages_know_what_they_stand_on() {
        let file = read(
            "ARG v=1 given=x\nARG w=$v.2\nFROM img:$w-$given-$TARGETARCH AS One\nFROM scratch\nFROM one AS two\n\
             COPY --from=1 a b\nFROM two\nRUN --mount=target=/x,from=other/image true\nFROM scratch AS last\n",
        )
        .expect("read");
        assert_eq!(file.stages[0].base, Base::Image("img:1.2-cli-amd64".into()));
        assert_eq!(file.stages[2].base, Base::Stage(0));
        assert_eq!(file.needed(3).expect("needed"), [0, 1, 2, 3]);
        assert_eq!(file.needed(4).expect("needed"), [4]);
        assert_eq!(file.target(None).expect("target"), 4);
        assert_eq!(file.target(Some("TWO")).expect("target"), 2);
        assert_eq!(file.target(Some("1")).expect("target"), 1);
        assert!(
            file.target(Some("no")).expect_err("no").hint_text().expect("hint").contains("two")
        );
    }

    #[test]
    fn what_cannot_be_built_is_refused() {
        for (text, said) in [
            ("", "there is no FROM"),
            ("RUN x", "D:1:1: no build stage"),
            ("ARG x\nFROM $x", "should not be blank"),
            ("FROM ${x", "D:1:1: "),
            ("FROM a AS b\nCOPY --from=b x y", "D:2:1: circular"),
            ("FROM a AS b\nCOPY --from=c x y\nFROM b AS c", "circular"),
            ("FROM a\nCOPY --from=7 x y", "no stage number 7"),
        ] {
            let file = read(text).and_then(|file| file.needed(0).map(drop));
            let err = file.expect_err(text).to_string();
            assert!(err.contains(said), "{text}: {err}");
        }
    }
}
