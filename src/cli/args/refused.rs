//! Flags of docker and podman that dhow knows and refuses, and why.

use std::ffi::OsString;

use crate::error::Error;

/// Commands (`network-create` is `network create`), a flag of theirs, and the reason.
pub const REFUSED: &[(&str, &str, &str)] = &[
    ("run create update", "--cpu-rt-period", NO_REAL_TIME),
    ("run create update", "--cpu-rt-runtime", NO_REAL_TIME),
    ("run create", "--decryption-key", "encrypted layers cannot be read"),
    ("run create", "--init-ctr", NO_PODS),
    ("run create", "--pod", NO_PODS),
    ("run create", "--pod-id-file", NO_PODS),
    ("ps container-clone", "--pod", NO_PODS),
    ("container-clone", "--cpu-rt-period", NO_REAL_TIME),
    ("container-clone", "--cpu-rt-runtime", NO_REAL_TIME),
    ("container-exists", "--external", NO_OTHERS),
    ("generate-systemd", "--pod-prefix", NO_PODS),
    ("secret-create", "--template-driver", "values are given as they are: templates are a swarm's"),
    ("system-prune", "--external", NO_OTHERS),
    (
        "system-check",
        "--max",
        "nothing is spared for its age: a layer of an unfinished pull is no damage here",
    ),
    ("run create", "--rdt-class", "classes of cache and memory bandwidth (resctrl) are not set"),
    ("run create", "--use-api-socket", "there is no daemon, and so no API socket to give"),
    ("network-create", "--ingress", NO_SERVICES),
    ("volume-create", "--availability", NO_CLUSTER_VOLUMES),
    ("volume-create", "--group", NO_CLUSTER_VOLUMES),
    ("volume-create", "--limit-bytes", NO_CLUSTER_VOLUMES),
    ("volume-create", "--required-bytes", NO_CLUSTER_VOLUMES),
    ("volume-create", "--scope", NO_CLUSTER_VOLUMES),
    ("volume-create", "--secret", NO_CLUSTER_VOLUMES),
    ("volume-create", "--sharing", NO_CLUSTER_VOLUMES),
    ("volume-create", "--topology-preferred", NO_CLUSTER_VOLUMES),
    ("volume-create", "--topology-required", NO_CLUSTER_VOLUMES),
    ("volume-create", "--type", NO_CLUSTER_VOLUMES),
    ("volume-ls", "--cluster", NO_CLUSTER_VOLUMES),
    (
        "build",
        "--compat-volumes",
        "what RUN writes into volumes stays in the image, as docker has it",
    ),
    ("build", "--cpp-flag", "a Dockerfile is not given to a preprocessor"),
    ("build", "--cw", "images are not made for confidential machines"),
    ("build", "--decryption-key", "encrypted layers cannot be read"),
    ("build", "--hooks-dir", "steps of a build have no programs around them"),
    ("build", "--layer-label", "steps leave no images of their own that could have labels"),
    (
        "build",
        "--logsplit",
        "--logfile has what is done for all platforms, each line with its platform",
    ),
    ("build", "--runtime-flag", OWN_PARTS),
    ("build", "--sbom-image-output", OWN_SBOM),
    ("build", "--sbom-image-purl-output", OWN_SBOM),
    ("build", "--sbom-merge-strategy", OWN_SBOM),
    ("build", "--sbom-output", OWN_SBOM),
    ("build", "--sbom-purl-output", OWN_SBOM),
    ("build", "--sbom-scanner-command", OWN_SBOM),
    ("build", "--sbom-scanner-image", OWN_SBOM),
    ("build", "--sign-by", "an image is signed when it is sent: `dhow push --sign-by KEY`"),
    ("build", "--stdin", "RUN has no input, so that it does the same wherever it is run"),
    ("build", "--userns-gid-map", USUAL_IDS),
    ("build", "--userns-gid-map-group", USUAL_IDS),
    ("build", "--userns-uid-map", USUAL_IDS),
    ("build", "--userns-uid-map-user", USUAL_IDS),
    ("buildx-create", "--append", ONE_NODE),
    (
        "buildx-create",
        "--buildkitd-config",
        "there is no daemon to configure: registries are in registries.conf and certs.d",
    ),
    (
        "buildx-create",
        "--config",
        "there is no daemon to configure: registries are in registries.conf and certs.d",
    ),
    ("buildx-create", "--leave", ONE_NODE),
    ("buildx-create", "--node", ONE_NODE),
    ("start", "--checkpoint", NO_CHECKPOINTS),
    ("start", "--checkpoint-dir", NO_CHECKPOINTS),
    (GLOBAL, "--cdi-spec-dir", "CDI specifications are read from /etc/cdi and /var/run/cdi"),
    (GLOBAL, "--cgroup-manager", "where cgroups are made is found out: `dhow info` shows it"),
    (GLOBAL, "--conmon", OWN_PARTS),
    (GLOBAL, "--connection", NO_DAEMON),
    (GLOBAL, "--context", NO_DAEMON),
    (GLOBAL, "--events-backend", "events are in a journal of dhow's own; `dhow events` shows them"),
    (GLOBAL, "--host", NO_DAEMON),
    (GLOBAL, "--identity", NO_DAEMON),
    (GLOBAL, "--imagestore", ONE_STORE),
    (GLOBAL, "--module", "there is no containers.conf that modules could change"),
    (GLOBAL, "--network-cmd-path", OWN_PARTS),
    (GLOBAL, "--network-config-dir", ONE_STORE),
    (GLOBAL, "--out", "stdout goes where the shell sends it: dhow … >FILE"),
    (GLOBAL, "--remote", NO_DAEMON),
    (GLOBAL, "--runtime", OWN_PARTS),
    (GLOBAL, "--runtime-flag", OWN_PARTS),
    (GLOBAL, "--ssh", NO_DAEMON),
    (
        GLOBAL,
        "--storage-opt",
        "what containers are stacked with is chosen by --storage-driver alone",
    ),
    (GLOBAL, "--syslog", "messages go to stderr; `systemd-cat dhow …` sends them to the journal"),
    (GLOBAL, "--tls", NO_DAEMON),
    (GLOBAL, "--tls-ca", NO_DAEMON),
    (GLOBAL, "--tls-cert", NO_DAEMON),
    (GLOBAL, "--tls-key", NO_DAEMON),
    (GLOBAL, "--tlscacert", NO_DAEMON),
    (GLOBAL, "--tlscert", NO_DAEMON),
    (GLOBAL, "--tlskey", NO_DAEMON),
    (GLOBAL, "--tlsverify", NO_DAEMON),
    (GLOBAL, "--tmpdir", "what is short-lived is below --runroot"),
    (GLOBAL, "--transient-store", "--root on a tmpfs forgets everything at a reboot"),
    (GLOBAL, "--url", NO_DAEMON),
    (GLOBAL, "--volumepath", ONE_STORE),
    ("pull", "--decryption-key", "encrypted layers cannot be read"),
    ("push", "--encrypt-layer", "encrypted layers cannot be made"),
    ("push", "--encryption-key", "encrypted layers cannot be made"),
    ("push save", "--compress", "layers stay as they are; `push --compression` packs them anew"),
    ("push manifest-push", "--remove-signatures", "signatures stay where they are: none is copied"),
    ("push", "--sign-by-sigstore", NO_SIGSTORE),
    ("push", "--sign-by-sq-fingerprint", NO_SIGSTORE),
    ("manifest-push", "--sign-by", NO_SIGNED_LISTS),
    ("manifest-push", "--sign-by-sigstore", NO_SIGNED_LISTS),
    ("manifest-push", "--sign-by-sigstore-private-key", NO_SIGNED_LISTS),
    ("manifest-push", "--sign-by-sq-fingerprint", NO_SIGNED_LISTS),
    ("manifest-push", "--sign-passphrase-file", NO_SIGNED_LISTS),
    ("manifest-push", "--add-compression", NO_PACKING),
    ("manifest-push", "--compression-format", NO_PACKING),
    ("manifest-push", "--compression-level", NO_PACKING),
    ("manifest-push", "--force-compression", NO_PACKING),
    ("manifest-push", "--format", "a list is of the kind that its images are"),
    ("manifest-add", "--artifact", NO_ARTIFACTS),
    ("manifest-add", "--artifact-config", NO_ARTIFACTS),
    ("manifest-add", "--artifact-config-type", NO_ARTIFACTS),
    ("manifest-add", "--artifact-exclude-titles", NO_ARTIFACTS),
    ("manifest-add", "--artifact-layer-type", NO_ARTIFACTS),
    ("manifest-add", "--artifact-subject", NO_ARTIFACTS),
    ("manifest-add", "--artifact-type", NO_ARTIFACTS),
    (
        "manifest-annotate",
        "--index",
        "`manifest create --amend --annotation` annotates the list itself",
    ),
    ("manifest-annotate", "--subject", "a list is about nothing but its images"),
    ("images", "--history", "names that an image had are not kept"),
    ("image-prune", "--build-cache", "`builder prune` removes it"),
    ("image-prune", "--external", NO_OTHERS),
    ("login logout", "--compat-auth-file", "--authfile names a file in that format"),
    ("login", "--secret", "--password-stdin takes it from a file"),
    ("login", "--verbose", "there is no more to tell; --get-login shows who you are"),
];

/// The place of a flag before the command.
pub const GLOBAL: &str = "(global)";
const NO_DAEMON: &str = "there is no daemon to reach: dhow works on the machine where it is called";
const OWN_PARTS: &str = "runtime, monitor and network are dhow's own";
const ONE_STORE: &str = "images, volumes and networks are all below --root";

const OWN_SBOM: &str =
    "no scanner is run: --sbom=true reads the databases of packages in the image";
const USUAL_IDS: &str = "files of an image are made with the ids that containers usually have";
const ONE_NODE: &str = "a builder has one node, which is this machine";

const NO_SIGSTORE: &str = "--sign-by KEY signs, in cosign's format, with a key";
const NO_SIGNED_LISTS: &str = "lists are not signed; `push --sign-by KEY` signs an image";
const NO_PACKING: &str = "images are sent as they are; `push --compression` packs one anew";
const NO_ARTIFACTS: &str = "lists are of images; `image referrers` shows what is about one";

const NO_SERVICES: &str = "networks of several hosts belong to a cluster's engine: containerd/Kubernetes runs the same images";
const NO_CLUSTER_VOLUMES: &str = "volumes are this host's; those of a cluster belong to its engine";
const NO_REAL_TIME: &str =
    "kernel does not support CPU real-time scheduler: cgroup v2 has no such limits";
const NO_PODS: &str =
    "there are no pods; containers share namespaces by --network, --pid and --ipc container:NAME";
const NO_OTHERS: &str = "the store has no containers of other engines";
const NO_CHECKPOINTS: &str =
    "the state of processes is not saved, so it cannot be restored; `dhow commit` keeps files";

/// The refusal of a flag (`--flag` or `--flag=value`) of a verb, if it is known.
pub fn refusal(verb: &str, typed: &str) -> Option<Error> {
    let flag = typed.split('=').next().unwrap_or(typed);
    let of_verb = |(verbs, name, _): &&(&str, &str, &str)| {
        *name == flag && verbs.split(' ').any(|known| known == verb)
    };
    let (_, _, reason) = REFUSED.iter().find(of_verb)?;
    Some(Error::unsupported(format!("{flag}: {reason}")))
}

/// Commands of docker and podman that dhow knows and refuses, and the reason.
pub const REFUSED_COMMANDS: &[(&str, &str)] = &[
    ("pod", NO_PODS),
    ("kube", NO_PODS),
    ("play", NO_PODS),
    ("machine", "dhow needs no virtual machine: it runs where Linux does"),
    ("swarm", NO_SWARM),
    ("service", NO_SWARM),
    ("stack", NO_SWARM),
    ("node", NO_SWARM),
    ("config", NO_SWARM),
    ("plugin", "there is no daemon that could load plugins"),
    ("context", "there is no daemon to choose: dhow works where it is called"),
    ("farm", "dhow builds where it is called"),
    ("bake", NO_BAKE),
    ("buildx bake", NO_BAKE),
    ("builder bake", NO_BAKE),
    ("buildx history", NO_RECORDS),
    ("builder history", NO_RECORDS),
    ("buildx dial-stdio", NO_BUILDKIT),
    ("builder dial-stdio", NO_BUILDKIT),
    ("buildx debug", "a failing step's last output is shown; --progress plain shows all of it"),
    ("buildx install", "`dhow build` is the same as `dhow buildx build` already"),
    ("buildx uninstall", "`dhow build` is the same as `dhow buildx build`"),
    ("volume reload", "there are no volume plugins to ask again: every volume is dhow's own"),
    ("volume update", NO_CLUSTER_VOLUMES),
    ("container checkpoint", NO_CHECKPOINTS),
    ("container restore", NO_CHECKPOINTS),
    ("checkpoint", NO_CHECKPOINTS),
    ("restore", NO_CHECKPOINTS),
    ("container runlabel", NO_RUNLABEL),
    ("runlabel", NO_RUNLABEL),
    (
        "container cleanup",
        "a container's monitor clears up when it ends; `dhow system check --repair` mends the rest",
    ),
    ("compose", "compose files are not read: `dhow run --network NAME` starts one container each"),
    ("auto-update", "nothing changes by itself: `dhow pull`, then `dhow run --replace`"),
    ("quadlet", "`dhow generate systemd --files` writes units"),
    ("artifact", "the store has images only; `dhow image referrers` shows what is about one"),
    ("generate spec", "`dhow run --dry-run` prints the spec that a command line comes to"),
    ("generate kube", NO_PODS),
    ("system migrate", NO_MIGRATION),
    ("system renumber", NO_MIGRATION),
    ("system service", "there is no daemon, and so no API: the commands are all there is"),
    ("system dial-stdio", "there is no daemon, and so no API: the commands are all there is"),
    ("system connection", "there is no daemon to choose: dhow works where it is called"),
    ("image scp", "`dhow save IMAGE | ssh HOST dhow load` copies one"),
    ("image sign", "`dhow push --sign-by KEY` signs an image"),
    ("image trust", "policy.json says what is trusted; a text editor changes it"),
    ("trust", "policy.json says what is trusted; `dhow push --sign-by KEY` signs"),
];

const NO_BAKE: &str = "files of targets are not read: call `dhow build` for each of them";
const NO_RECORDS: &str = "no record of builds is kept: --metadata-file and --trace write one, and `dhow history` shows an image's";
const NO_BUILDKIT: &str = "there is no daemon of BuildKit to talk to";
const NO_MIGRATION: &str =
    "there is nothing to do: records are read by every later version, and locks have no numbers";
const NO_SWARM: &str = "there is no swarm";
const NO_RUNLABEL: &str = "a label of an image is not executed on this host";

/// The refusal of a whole command, if it is known.
fn command_refusal(args: &[OsString], word: &str) -> Option<Error> {
    let first = from_command(args, word).next()?;
    let command = if first == word { word.to_owned() } else { format!("{first} {word}") };
    let (name, reason) = REFUSED_COMMANDS.iter().find(|(name, _)| *name == command)?;
    Some(Error::unsupported(format!("dhow {name}: {reason}")))
}

/// The words from the first command, or `word`, on: before are flags of the program's own, and
/// their values.
fn from_command<'a>(args: &'a [OsString], word: &'a str) -> impl Iterator<Item = &'a str> {
    let whole = <super::Cli as clap::CommandFactory>::command();
    let words = args.iter().skip(1).filter_map(|word| word.to_str());
    words.skip_while(move |typed| *typed != word && whole.find_subcommand(typed).is_none())
}

/// Why the whole grammar does not know a word of this command line, if it is a flag that is
/// refused.
pub fn explain(args: &[OsString], err: &clap::Error) -> Option<Error> {
    use clap::error::{ContextKind, ContextValue};
    if let Some(ContextValue::String(word)) = err.get(ContextKind::InvalidSubcommand) {
        return command_refusal(args, word);
    }
    let Some(ContextValue::String(flag)) = err.get(ContextKind::InvalidArg) else { return None };
    let mut words = from_command(args, "");
    let verb = words.find(|word| !word.starts_with('-') && *word != "container");
    if let Some(refusal) = global_refusal(args, flag) {
        return Some(refusal);
    }
    let (first, second) = (verb?, words.next().unwrap_or_default());
    // What stands in `image` and by itself is one command.
    let alone = match (first, second) {
        ("image", "ls" | "list") => "images",
        ("clone", _) => "container-clone",
        ("exists", _) => "container-exists",
        ("image", second) => second,
        ("buildx" | "builder", second) => second,
        ("ls" | "list", _) => "ps",
        (first, _) => first,
    };
    let flag = match flag.split('=').next().unwrap_or(flag) {
        "-v" => "--verbose",
        "-f" => "--format",
        flag => flag,
    };
    refusal(&format!("{first}-{second}"), flag).or_else(|| refusal(alone, flag))
}

/// As [`refusal`], for a flag that stands before every command.
fn global_refusal(args: &[OsString], flag: &str) -> Option<Error> {
    const SHORT: [(&str, &str); 3] = [("-H", "--host"), ("-c", "--context"), ("-r", "--remote")];
    let whole = <super::Cli as clap::CommandFactory>::command();
    let is_command =
        |word: &OsString| word.to_str().is_some_and(|word| whole.find_subcommand(word).is_some());
    let before = args.iter().skip(1).take_while(|word| !is_command(word));
    let stands = |word: &OsString| word.to_str().is_some_and(|word| word.starts_with(flag));
    let long = SHORT.iter().find(|(short, _)| *short == flag).map_or(flag, |(_, long)| long);
    if before.into_iter().any(stands) { refusal(GLOBAL, long) } else { None }
}
