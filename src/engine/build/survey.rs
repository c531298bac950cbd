//! What a Dockerfile says, without building it: its checks, its targets, the outline of one.

use std::collections::BTreeMap;

use super::{BuildRequest, Named};
use crate::{
    build::{
        Base, Dockerfile, Ignore, Instruction, Kind, Mount, MountKind, Source, expand, instruction,
        lint::{self, Checks, Surroundings, Warning},
    },
    engine::Engine,
    error::{Error, Result},
    oci::Reference,
};

/// What the checks found.
#[derive(Debug, Clone)]
pub struct Checked {
    pub warnings: Vec<Warning>,
    /// A warning is an error.
    pub is_error: bool,
    /// Why it could not be built at all.
    pub broken: Option<Error>,
}

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub is_default: bool,
    pub description: String,
    /// As it is written.
    pub base: String,
    pub platform: Option<String>,
    pub line: usize,
}

/// What a target takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    pub name: String,
    pub description: String,
    pub args: Vec<OutlineArg>,
    pub secrets: Vec<OutlineSecret>,
    /// Agents, by the ids of their sockets.
    pub agents: Vec<OutlineSecret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineSecret {
    pub id: String,
    pub required: bool,
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArg {
    pub name: String,
    pub value: Option<String>,
    pub description: String,
    pub line: usize,
}

impl Engine {
    /// What BuildKit's rules say of the Dockerfile.
    pub fn check_build(&self, request: &BuildRequest<'_>) -> Result<Checked> {
        let source = &request.dockerfile;
        let checks = match request.args.get("BUILDKIT_DOCKERFILE_CHECK") {
            Some(text) => Checks::parse(text)?,
            None => lint::directive(source)?.unwrap_or_default(),
        };
        let ignore = Ignore::parse(request.context.ignore())?;
        let named = |image: &str| request.contexts.get(&image.to_ascii_lowercase());
        let environment = |image: &str| {
            let image = match named(image) {
                Some(Named::Image(other)) => other,
                Some(_) => return None,
                None => image,
            };
            let image = self.here(image).ok()??;
            let document: serde_json::Value = self.store.read_json_blob(&image.record.id).ok()?;
            let list = document["config"]["Env"].as_array().into_iter().flatten();
            let names = list.filter_map(|entry| entry.as_str()?.split('=').next());
            Some(names.map(str::to_owned).collect())
        };
        let around = Surroundings {
            args: &request.args,
            ignore: Some(&ignore),
            automatic: &|name| request.automatic(name).is_some(),
            environment: &environment,
            other_platform: &|image, platform| {
                let named = match named(image) {
                    Some(Named::Image(other)) => other,
                    Some(_) => return None,
                    None => image,
                };
                self.other_platform(request, named, platform)
            },
            is_image: &|name| name == "scratch" || name.parse::<Reference>().is_ok(),
        };
        let checked = lint::check(source, &checks, &around);
        let whole = request.read().and_then(|file| {
            let target = file.target(request.target.as_deref())?;
            super::needed(&file, target, request)
        });
        match (checked, whole) {
            (Ok(warnings), whole) => {
                Ok(Checked { warnings, is_error: checks.error, broken: whole.err() })
            }
            (Err(err), _) => {
                Ok(Checked { warnings: Vec::new(), is_error: checks.error, broken: Some(err) })
            }
        }
    }

    /// What an image should be for, and what the one that is here is for, if that is something else.
    fn other_platform(
        &self,
        request: &BuildRequest<'_>,
        image: &str,
        platform: Option<&str>,
    ) -> Option<(String, String)> {
        let expected = match platform {
            Some(text) => {
                expand::word(text, '\\', &|name| request.automatic(name)).ok()?.parse().ok()?
            }
            None => request.platform.clone(),
        };
        let found = self.here(image).ok()??.record.platform;
        let is_same = found.os == expected.os && found.architecture == expected.architecture;
        (!is_same).then(|| (expected.to_string(), found.to_string()))
    }

    /// The stages that have a name, and the last one.
    pub fn targets_of_build(&self, request: &BuildRequest<'_>) -> Result<Vec<Listed>> {
        let file = request.read()?;
        let last = file.stages.len() - 1;
        // As they are written, with their variables.
        let (_, instructions) = instruction::parse(&file.source)?;
        #[expect(clippy::wildcard_enum_match_arm, reason = "only FROM begins a stage")]
        let written = instructions.into_iter().filter_map(|instruction| match instruction.kind {
            Kind::From { image, platform, .. } => Some((image, platform)),
            _ => None,
        });
        let listed = file.stages.iter().zip(written).enumerate().filter_map(
            |(at, (stage, (base, platform)))| {
                let name = stage.name.clone().or_else(|| (at == last).then(String::new))?;
                Some(Listed {
                    description: description(&file.source, stage.line, &name),
                    name,
                    is_default: at == last,
                    base,
                    platform,
                    line: stage.line,
                })
            },
        );
        Ok(listed.collect())
    }

    /// What the target takes, with what it stands on.
    pub fn outline_of_build(&self, request: &BuildRequest<'_>) -> Result<Outline> {
        let file = request.read()?;
        let target = file.target(request.target.as_deref())?;
        let stage = &file.stages[target];
        let name = stage.name.clone().unwrap_or_default();
        let mut outline = Outline {
            description: description(&file.source, stage.line, &name),
            name,
            ..Outline::default()
        };
        let (_, instructions) = instruction::parse(&file.source)?;
        let mut survey = Survey { file: &file, request, instructions, scopes: BTreeMap::new() };
        for stage in super::needed(&file, target, request)? {
            survey.stage(stage, &mut outline);
        }
        outline.args.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(outline)
    }
}

/// Walks the stages of a target.
struct Survey<'a> {
    file: &'a Dockerfile,
    request: &'a BuildRequest<'a>,
    instructions: Vec<Instruction>,
    /// The variables at the end of each stage.
    scopes: BTreeMap<usize, BTreeMap<String, String>>,
}

impl Survey<'_> {
    fn stage(&mut self, number: usize, outline: &mut Outline) {
        let stage = &self.file.stages[number];
        let mut scope = match stage.base {
            Base::Stage(base) => self.scopes.get(&base).cloned().unwrap_or_default(),
            Base::Scratch | Base::Image(_) => BTreeMap::new(),
        };
        for step in &stage.steps {
            let word = |scope: &BTreeMap<String, String>, text: &str| {
                let lookup = |name: &str| scope.get(name).cloned();
                expand::word(text, self.file.escape, &lookup).unwrap_or_else(|_| text.to_owned())
            };
            #[expect(clippy::wildcard_enum_match_arm, reason = "the others take nothing")]
            match &step.kind {
                Kind::Env(pairs) => {
                    for (name, value) in pairs {
                        let value = word(&scope, value);
                        scope.insert(name.clone(), value);
                    }
                }
                Kind::Arg(args) => {
                    for (name, default) in args {
                        let default = default.as_deref().map(|text| word(&scope, text));
                        self.arg(name, default, step.line, &mut scope, outline);
                    }
                }
                Kind::Run(run) => {
                    run.mounts.iter().for_each(|mount| outline.mount(mount, step.line))
                }
                _ => {}
            }
        }
        self.scopes.insert(number, scope);
    }

    fn arg(
        &self,
        name: &str,
        default: Option<String>,
        line: usize,
        scope: &mut BTreeMap<String, String>,
        outline: &mut Outline,
    ) {
        let given = self.request.args.get(name).cloned();
        let is_own = given.is_some() || default.is_some();
        let automatic = |name: &str| self.request.automatic(name);
        let value = given.or(default).or_else(|| self.file.global(name, &automatic));
        if let Some(value) = &value {
            scope.insert(name.to_owned(), value.clone());
        }
        // One that has its value from above the stages is what it is there.
        let above = self.instructions.iter().take_while(|it| !matches!(it.kind, Kind::From { .. }));
        let above = above.filter(|it| {
            matches!(&it.kind, Kind::Arg(args) if args.iter().any(|(global, _)| global == name))
        });
        let line = match (is_own, above.last().map(|it| it.line)) {
            (false, Some(line)) => line,
            // Every build has it.
            (false, None) if value.is_some() => return,
            _ => line,
        };
        let description = description(&self.file.source, line, name);
        let arg = OutlineArg { name: name.to_owned(), value, description, line };
        outline.args.retain(|known| known.name != name);
        outline.args.push(arg);
    }
}

impl Outline {
    fn mount(&mut self, mount: &Mount, line: usize) {
        let list = match mount.kind {
            MountKind::Secret => &mut self.secrets,
            MountKind::Ssh => &mut self.agents,
            MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => return,
        };
        let last = || mount.target.as_deref()?.rsplit('/').next().map(str::to_owned);
        let id = match mount.kind {
            MountKind::Ssh => mount.id.clone().unwrap_or_else(|| "default".into()),
            MountKind::Bind | MountKind::Cache | MountKind::Tmpfs | MountKind::Secret => {
                mount.id.clone().or_else(|| mount.source.clone()).or_else(last).unwrap_or_default()
            }
        };
        match list.iter_mut().find(|known| known.id == id) {
            Some(known) => known.required |= mount.required,
            None => list.push(OutlineSecret { id, required: mount.required, line }),
        }
    }
}

/// `# NAME what it is` in the comments above.
fn description(source: &Source, line: usize, name: &str) -> String {
    let comments = source.comments_above(line);
    let said = comments.iter().find_map(|text| lint::described(text, name));
    said.unwrap_or_default().to_owned()
}
