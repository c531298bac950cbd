//! What each command does: arguments to engine calls, results to output.

pub mod attach;
pub mod build;
pub mod builder;
pub mod container;
pub mod create;
pub mod events;
pub mod exec;
pub mod files;
pub mod health;
pub mod image;
pub mod images;
pub mod imagetools;
pub mod inspect;
mod join;
pub mod login;
pub mod logs;
pub mod manifest;
pub mod mount;
pub mod network;
pub mod networks;
pub mod prune;
pub mod ps;
pub mod referrers;
pub mod registry;
mod resources;
pub mod run;
pub mod save;
pub mod search;
pub mod secret;
mod seldom;
pub mod special;
pub mod stats;
pub mod store;
pub mod system;
pub mod systemd;
pub mod top;
pub mod update;
pub mod upkeep;
pub mod volume;

use std::process::ExitCode;

use super::{
    args::{
        Cli, Command, ContainerCommand, GenerateCommand, HealthcheckCommand, ImageCommand,
        NetworkCommand, SystemCommand, secret::SecretCommand, volume::VolumeCommand,
    },
    exit,
};
use crate::{
    engine::{Engine, inspect::ObjectType},
    error::{Error, Result},
    state::record::Storage,
};

/// Carries the command out.
pub fn dispatch(cli: Cli) -> ExitCode {
    // Docker: what fails before a container's command runs is 125; other commands fail with 1.
    let starts_something = starts_something(&cli.command);
    let outcome = carry_out_any(cli);
    match outcome {
        Ok(code) => code,
        Err(err) => {
            exit::report(&err);
            exit::code(if starts_something { err.kind().exit_code().into() } else { 1 })
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only the few commands that need no store are told apart here; carry_out names all"
)]
fn carry_out_any(cli: Cli) -> Result<ExitCode> {
    // Empty is as good as unset, as for every variable.
    let storage = cli.storage_driver.as_deref().filter(|name| !name.is_empty());
    let storage = storage.map(Storage::parse).transpose()?;
    match cli.command {
        Command::Completion(args) => system::completion(&args),
        Command::Man(args) => system::man(&args),
        Command::Version(args) => system::version(args.format.as_deref()),
        Command::Login(args) => login::login(&args),
        Command::Logout(args) => login::logout(&args),
        Command::Search(args) => search::search(&args),
        Command::Doctor(args) | Command::System(SystemCommand::Doctor(args)) => {
            system::doctor(&Engine::layout(cli.root, cli.runroot)?, storage, &args)
        }
        Command::System(SystemCommand::Reset(args)) => {
            upkeep::reset(&Engine::layout(cli.root, cli.runroot)?, &args)
        }
        command => {
            let engine = Engine::open(cli.root, cli.runroot)?;
            carry_out(&Engine { storage, ..engine }, command)
        }
    }
}

fn starts_something(command: &Command) -> bool {
    matches!(
        command,
        Command::Run(_)
            | Command::Create(_)
            | Command::Exec(_)
            | Command::Container(
                ContainerCommand::Run(_) | ContainerCommand::Create(_) | ContainerCommand::Exec(_)
            )
    )
}

fn carry_out(engine: &Engine, command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(engine, &args),
        Command::Create(args) => create::create(engine, &args.container),
        Command::Start(args) => run::start(engine, &args),
        Command::Exec(args) => exec::exec(engine, &args),
        Command::Ps(args) => ps::ps(engine, &args),
        Command::Logs(args) => logs::logs(engine, &args),
        Command::Stop(args) => container::stop(engine, &args),
        Command::Kill(args) => container::kill(engine, &args),
        Command::Restart(args) => container::restart(engine, &args),
        Command::Init(args) => run::init(engine, &args),
        Command::Pause(args) => container::pause(engine, &args),
        Command::Unpause(args) => container::unpause(engine, &args),
        Command::Top(args) => top::top(engine, &args),
        Command::Attach(args) => run::attach(engine, &args),
        Command::Explain(args) => special::explain(engine, &args),
        Command::Unshare(args) => special::unshare(engine, &args),
        Command::Wait(args) => container::wait(engine, &args),
        Command::Port(args) => network::port(engine, &args),
        Command::Cp(args) => files::cp(engine, &args),
        Command::Diff(args) => files::diff(engine, &args),
        Command::Mount(args) => mount::mount_containers(engine, &args),
        Command::Unmount(args) => mount::unmount_containers(engine, &args),
        Command::Export(args) => files::export(engine, &args),
        Command::Commit(args) => files::commit(engine, &args),
        Command::Stats(args) => stats::stats(engine, &args),
        Command::Update(args) => update::update(engine, &args),
        Command::Events(args) | Command::System(SystemCommand::Events(args)) => {
            events::events(engine, &args)
        }
        Command::Healthcheck(HealthcheckCommand::Run(args)) => health::run(engine, &args),
        Command::Generate(GenerateCommand::Systemd(args)) => systemd::generate(engine, &args),
        Command::Rm(args) => container::rm(engine, &args),
        Command::Rename(args) => container::rename(engine, &args),
        Command::Build(args) => build::build(engine, &args),
        Command::Builder(args) => builder::builder(engine, &args),
        Command::Pull(args) => registry::pull(engine, &args),
        Command::Push(args) => registry::push(engine, &args),
        Command::Load(args) => image::load(engine, &args),
        Command::Import(args) => image::import(engine, &args),
        Command::Images(args) => images::images(engine, &args),
        Command::Rmi(args) => store::rmi(engine, &args),
        Command::Tag(args) => store::tag(engine, &args),
        Command::Untag(args) => store::untag(engine, &args),
        Command::History(args) => images::history(engine, &args),
        Command::Manifest(command) => manifest::manifest(engine, &command),
        Command::Save(args) => save::save(engine, &args),
        Command::Image(command) => match command {
            ImageCommand::Build(args) => build::build(engine, &args),
            ImageCommand::Pull(args) => registry::pull(engine, &args),
            ImageCommand::Push(args) => registry::push(engine, &args),
            ImageCommand::Ls(args) => images::images(engine, &args),
            ImageCommand::Rm(args) => store::rmi(engine, &args),
            ImageCommand::Tag(args) => store::tag(engine, &args),
            ImageCommand::Untag(args) => store::untag(engine, &args),
            ImageCommand::History(args) => images::history(engine, &args),
            ImageCommand::Save(args) => save::save(engine, &args),
            ImageCommand::Cp(args) => save::copy(engine, &args),
            ImageCommand::Exists(args) => store::exists(engine, &args),
            ImageCommand::Tree(args) => images::tree(engine, &args),
            ImageCommand::Prune(args) => store::prune(engine, &args),
            ImageCommand::Mount(args) => mount::mount(engine, &args),
            ImageCommand::Unmount(args) => mount::unmount(engine, &args),
            ImageCommand::Diff(args) => files::image_diff(engine, &args),
            ImageCommand::Referrers(args) => referrers::referrers(engine, &args),
            ImageCommand::Load(args) => image::load(engine, &args),
            ImageCommand::Import(args) => image::import(engine, &args),
            ImageCommand::Inspect(args) => inspect::inspect(engine, &args, ObjectType::Image),
        },
        Command::Container(command) => match command {
            ContainerCommand::Run(args) => run::run(engine, &args),
            ContainerCommand::Create(args) => create::create(engine, &args.container),
            ContainerCommand::Start(args) => run::start(engine, &args),
            ContainerCommand::Exec(args) => exec::exec(engine, &args),
            ContainerCommand::Stop(args) => container::stop(engine, &args),
            ContainerCommand::Kill(args) => container::kill(engine, &args),
            ContainerCommand::Restart(args) => container::restart(engine, &args),
            ContainerCommand::Init(args) => run::init(engine, &args),
            ContainerCommand::Pause(args) => container::pause(engine, &args),
            ContainerCommand::Unpause(args) => container::unpause(engine, &args),
            ContainerCommand::Top(args) => top::top(engine, &args),
            ContainerCommand::Attach(args) => run::attach(engine, &args),
            ContainerCommand::Wait(args) => container::wait(engine, &args),
            ContainerCommand::Port(args) => network::port(engine, &args),
            ContainerCommand::Cp(args) => files::cp(engine, &args),
            ContainerCommand::Diff(args) => files::diff(engine, &args),
            ContainerCommand::Mount(args) => mount::mount_containers(engine, &args),
            ContainerCommand::Unmount(args) => mount::unmount_containers(engine, &args),
            ContainerCommand::Export(args) => files::export(engine, &args),
            ContainerCommand::Commit(args) => files::commit(engine, &args),
            ContainerCommand::Stats(args) => stats::stats(engine, &args),
            ContainerCommand::Update(args) => update::update(engine, &args),
            ContainerCommand::Prune(args) => prune::containers(engine, &args),
            ContainerCommand::Clone(args) => special::clone(engine, &args),
            ContainerCommand::Exists(args) => container::exists(engine, &args),
            ContainerCommand::Rm(args) => container::rm(engine, &args),
            ContainerCommand::Rename(args) => container::rename(engine, &args),
            ContainerCommand::Ls(args) => ps::ps(engine, &args),
            ContainerCommand::Logs(args) => logs::logs(engine, &args),
            ContainerCommand::Inspect(args) => {
                inspect::inspect(engine, &args, ObjectType::Container)
            }
        },
        Command::Volume(command) => match command {
            VolumeCommand::Create(args) => volume::create(engine, &args),
            VolumeCommand::Ls(args) => volume::ls(engine, &args),
            VolumeCommand::Inspect(args) => volume::inspect(engine, &args),
            VolumeCommand::Rm(args) => volume::rm(engine, &args),
            VolumeCommand::Prune(args) => volume::prune(engine, &args),
            VolumeCommand::Exists(args) => volume::exists(engine, &args),
            VolumeCommand::Export(args) => volume::export(engine, &args),
            VolumeCommand::Import(args) => volume::import(engine, &args),
            VolumeCommand::Mount(args) => volume::mount(engine, &args),
            VolumeCommand::Unmount(args) => volume::unmount(engine, &args),
        },
        Command::Secret(command) => match command {
            SecretCommand::Create(args) => secret::create(engine, &args),
            SecretCommand::Ls(args) => secret::ls(engine, &args),
            SecretCommand::Inspect(args) => secret::inspect(engine, &args),
            SecretCommand::Rm(args) => secret::rm(engine, &args),
            SecretCommand::Exists(args) => secret::exists(engine, &args),
        },
        Command::Inspect(args) => inspect::inspect(engine, &args, ObjectType::Any),
        Command::Info(args) | Command::System(SystemCommand::Info(args)) => {
            system::info(engine, args.format.as_deref())
        }
        Command::Network(command) => match command {
            NetworkCommand::Create(args) => network::create(engine, &args),
            NetworkCommand::Ls(args) => networks::ls(engine, &args),
            NetworkCommand::Inspect(args) => network::inspect(engine, &args),
            NetworkCommand::Rm(args) => network::rm(engine, &args),
            NetworkCommand::Prune(args) => network::prune(engine, &args),
            NetworkCommand::Exists(args) => network::exists(engine, &args),
            NetworkCommand::Log(args) => network::log(engine, &args),
            NetworkCommand::Connect(args) => join::connect(engine, &args),
            NetworkCommand::Disconnect(args) => join::disconnect(engine, &args),
            NetworkCommand::Reload(args) => join::reload(engine, &args),
            NetworkCommand::Update(args) => join::update(engine, &args),
        },
        Command::System(SystemCommand::Df(args)) => upkeep::df(engine, &args),
        Command::System(SystemCommand::Check(args)) => upkeep::check(engine, &args),
        Command::System(SystemCommand::Gc(args)) => upkeep::gc(engine, &args),
        Command::System(SystemCommand::Prune(args)) => prune::system(engine, &args),
        Command::Version(_)
        | Command::Login(_)
        | Command::Logout(_)
        | Command::Search(_)
        | Command::Doctor(_)
        | Command::System(SystemCommand::Doctor(_) | SystemCommand::Reset(_))
        | Command::Completion(_)
        | Command::Man(_) => Err(Error::engine("this command is carried out without a store")),
    }
}
