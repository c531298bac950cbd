//! What a Dockerfile says, without building it: its checks, its targets, the outline of one.

use std::collections::BTreeSet;

use super::{BuildRequest, Named};
use crate::{
    build::{
        Dockerfile, Ignore, Kind, MountKind, Source, Stage, expand,
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
            is_image: &|name| name == "scratch" || name.parse::<Reference>().is_ok(),
        };
        let checked = lint::check(source, &checks, &around);
        let given = |name: &str| request.args.get(name).cloned();
        let automatic = |name: &str| request.automatic(name);
        let read = Dockerfile::read(source.clone(), &given, &automatic);
        let whole = read.and_then(|file| {
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

    /// The stages that have a name, and the last one.
    pub fn targets_of_build(&self, request: &BuildRequest<'_>) -> Result<Vec<Listed>> {
        let file = read(request)?;
        let last = file.stages.len() - 1;
        let listed = file.stages.iter().enumerate().filter_map(|(at, stage)| {
            let name = stage.name.clone().or_else(|| (at == last).then(String::new))?;
            Some(Listed {
                description: description(&file.source, stage.line, &name),
                name,
                is_default: at == last,
                base: stage.image.clone(),
                platform: stage.platform.clone(),
                line: stage.line,
            })
        });
        Ok(listed.collect())
    }

    /// What the target takes, with what it stands on.
    pub fn outline_of_build(&self, request: &BuildRequest<'_>) -> Result<Outline> {
        let file = read(request)?;
        let target = file.target(request.target.as_deref())?;
        let stage = &file.stages[target];
        let name = stage.name.clone().unwrap_or_default();
        let mut outline = Outline {
            description: description(&file.source, stage.line, &name),
            name,
            ..Outline::default()
        };
        for stage in super::needed(&file, target, request)? {
            outline.add(&file, &file.stages[stage], request);
        }
        Ok(outline)
    }
}

impl Outline {
    fn add(&mut self, file: &Dockerfile, stage: &Stage, request: &BuildRequest<'_>) {
        let known: BTreeSet<String> = self.args.iter().map(|arg| arg.name.clone()).collect();
        for step in &stage.steps {
            #[expect(clippy::wildcard_enum_match_arm, reason = "the others take nothing")]
            match &step.kind {
                Kind::Arg(args) => {
                    for (name, default) in args.iter().filter(|(name, _)| !known.contains(name)) {
                        let automatic = |name: &str| request.automatic(name);
                        let default = default.as_deref().and_then(|text| {
                            expand::word(text, file.escape, &|name| file.global(name, &automatic))
                                .ok()
                        });
                        let given = request.args.get(name).cloned();
                        let value = given.or(default).or_else(|| file.global(name, &automatic));
                        let name = name.clone();
                        let description = description(&file.source, step.line, &name);
                        self.args.push(OutlineArg { name, value, description, line: step.line });
                    }
                }
                Kind::Run(run) => {
                    for mount in &run.mounts {
                        let id = mount.id.clone().or_else(|| {
                            Some(mount.target.as_deref()?.rsplit('/').next()?.to_owned())
                        });
                        let id = id.unwrap_or_default();
                        if mount.kind != MountKind::Secret {
                            continue;
                        }
                        match self.secrets.iter_mut().find(|secret| secret.id == id) {
                            Some(known) => known.required |= mount.required,
                            None => self.secrets.push(OutlineSecret {
                                id,
                                required: mount.required,
                                line: step.line,
                            }),
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

fn read(request: &BuildRequest<'_>) -> Result<Dockerfile> {
    let given = |name: &str| request.args.get(name).cloned();
    Dockerfile::read(request.dockerfile.clone(), &given, &|name| request.automatic(name))
}

/// `# NAME what it is` in the comments above.
fn description(source: &Source, line: usize, name: &str) -> String {
    let comments = source.comments_above(line);
    let said = comments.iter().find_map(|text| lint::described(text, name));
    said.unwrap_or_default().to_owned()
}
