//! Volumes in hostile hands: what a container, an image or a tar puts into one leads dhow to
//! nothing outside of it (CVE-2018-15664, CVE-2021-30465, CVE-2022-23648).

use std::{fs, os::unix::fs::MetadataExt as _};

use crate::{
    env::{Env, poll},
    fixture::{BUSY, Compression, compress, layer},
    needs::needs,
};

const RUN: &str = "run --rm --network none";
/// What a race is tried. Each try meets the container at another moment.
const TRIES: usize = 8;

/// A directory of the host's that nobody is to reach, and what it is like.
struct Outside<'a> {
    env: &'a Env,
    before: (u32, u32, u32),
}

impl<'a> Outside<'a> {
    fn new(env: &'a Env) -> Self {
        fs::create_dir(env.path("outside")).unwrap();
        env.file("outside/f", "secret\n");
        Self { env, before: Self::look(env) }
    }

    fn look(env: &Env) -> (u32, u32, u32) {
        let (dir, file) = (env.path("outside").metadata(), env.path("outside/f").metadata());
        let (dir, file) = (dir.unwrap(), file.unwrap());
        (dir.mode(), dir.uid(), file.uid())
    }

    #[track_caller]
    fn is_untouched(&self) {
        assert_eq!(Self::look(self.env), self.before);
        assert_eq!(fs::read_to_string(self.env.path("outside/f")).unwrap(), "secret\n");
        assert_eq!(fs::read_dir(self.env.path("outside")).unwrap().count(), 1);
    }
}

/// In the volume `one`, a directory and a link out of it take turns for ever at the name `d`; files
/// and directories come and go.
fn busy_volume(env: &Env) -> Outside<'_> {
    let outside = Outside::new(env);
    let out = env.path("outside").display().to_string();
    let turns = "while :; do mv real d; mv d real; mv out d; mv d out; \
                 mkdir -p t/u; echo x > t/u/f; rm -r t; done";
    env.run(&format!(
        "run -d --network none --name evil -v one:/v busy sh -c 'cd /v; mkdir real; \
         echo in > real/f; ln -s {out} out; touch ready; {turns}'"
    ))
    .exits(0);
    poll("the volume is ready", || env.run("exec evil test -e /v/ready").code == 0);
    outside
}

#[test]
fn reading_a_volume_that_changes_stays_inside() {
    let env = Env::with("busy", BUSY);
    let outside = busy_volume(&env);
    let part =
        format!("{RUN} --mount type=volume,src=one,dst=/m,volume-subpath=d busy cat /m/f /m");
    for _ in 0..TRIES {
        let tar = env.run("volume export one").exits(0);
        assert!(!String::from_utf8_lossy(tar.bytes()).contains("secret"));
        env.run("system df -v").exits(0).hides("damaged").shows("one");
        let shown = env.run(&part);
        assert!(!shown.stdout.contains("secret"), "{}", shown.stdout);
    }
    env.run("rm -ft 0 evil").exits(0);
    outside.is_untouched();
}

#[test]
fn writing_into_a_volume_that_changes_stays_inside() {
    let env = Env::with("busy", BUSY);
    let outside = busy_volume(&env);
    let tar = layer("/d/ 0777 1:1\n/d/f 0777 1:1 mine\n/d/g/ 0700 2:2\n/d/g/h 0644 mine");
    for _ in 0..TRIES {
        // It may find a link in its way, or nothing where there was something.
        let _ = env.run_with_stdin("volume import one", tar.clone()).code;
        let _ = env.run(&format!("{RUN} -v one:/v:U --user 5:6 busy true")).code;
        outside.is_untouched();
    }
    env.run("rm -ft 0 evil").exits(0);
    env.run(&format!("{RUN} -v one:/v:U --user 5:6 busy stat -c %u:%g /v/ready")).prints("5:6\n");
    env.run("volume rm one").prints("one\n");
    outside.is_untouched();
}

#[test]
fn a_tar_reaches_nothing_outside_its_volume() {
    let env = Env::with("busy", BUSY);
    let outside = Outside::new(&env);
    let out = env.path("outside").display().to_string();
    env.run("volume create one").exits(0);
    for (tar, said) in [
        ("\"../../x\" 0644 x".to_owned(), "leaves"),
        ("\"a/../../../x\" 0644 x".into(), "leaves"),
        (format!("/l -> {out}\n/l/x 0644 x"), "is not a directory"),
        (format!("/l -> {out}/f\n/m => l\n/m/x 0644 x"), "is not a directory"),
        (format!("/hard => {out}/f"), "hard"),
        ("/hard => ../../../volume.json".into(), "leaves"),
    ] {
        env.run_with_stdin("volume import one", layer(&tar)).fails_with(1, said);
        outside.is_untouched();
    }
    // An absolute name is one in the volume; a link, and what comes in its place, stay there.
    let tar = format!("\"{out}/f\" 0644 mine\n/l -> {out}/f\n/l 0600 mine");
    env.run_with_stdin("volume import one", layer(&tar)).prints("");
    env.run(&format!("{RUN} -v one:/v busy cat /v/l /v{out}/f")).prints("mine\nmine\n");
    outside.is_untouched();
    // Half a tar is an error.
    let whole = layer("/big 0644 0123456789\n/other 0644 x");
    env.run_with_stdin("volume import one", &whole[..700]).fails_with(1, "import into volume one");
    env.run("volume rm one").prints("one\n");
}

#[test]
fn a_packed_tar_is_unpacked() {
    let env = Env::with("busy", BUSY);
    env.run("volume create one").exits(0);
    for packing in [Compression::Gzip, Compression::Zstd] {
        env.file("packed", compress(&layer("/f 0644 in"), packing));
        env.run("volume import one packed").prints("");
        env.run(&format!("{RUN} -v one:/v busy sh -c 'cat /v/f; rm /v/f'")).prints("in\n");
    }
    env.run_with_stdin("volume import one", &b"\xfd7zXZ\0xxxxxxx"[..])
        .fails_with(1, "compressed with xz")
        .tells("xz -dc");
}

/// A volume's own directory keeps its owner and mode on the way: databases look at them.
#[test]
fn a_volume_arrives_as_it_left() {
    let env = Env::with("busy", &format!("{BUSY}/srv/db/ 0700 5:6\n/srv/db/f 0600 5:6 x\n"));
    env.run(&format!("{RUN} -v one:/srv/db busy true")).prints("");
    env.run("volume export -o one.tar one").prints("");
    env.run("volume create two").exits(0);
    env.run("volume import two one.tar").prints("");
    env.run(&format!("{RUN} -v two:/v busy stat -c '%n %u:%g %a' /v /v/f"))
        .prints("/v 5:6 700\n/v/f 5:6 600\n");
}

mod as_root {
    use super::*;

    #[test]
    fn a_node_of_a_tar_opens_for_nobody() {
        needs!(root);
        let env = Env::with("busy", BUSY);
        env.run("volume create one").exits(0);
        let tar = layer("/null 0666 char 1:3\n/pipe 0644 fifo");
        env.run_with_stdin("volume import one", tar).prints("");
        env.run(&format!("{RUN} --cap-drop MKNOD -v one:/v busy cat /v/null"))
            .fails_with(1, "Permission denied");
        env.run(&format!("{RUN} -v one:/v busy test -p /v/pipe")).exits(0);
    }
}

mod rootless {
    use super::*;

    #[test]
    fn a_node_of_a_tar_is_not_made() {
        needs!(subids);
        let env = Env::with("busy", BUSY);
        env.run("volume create one").exits(0);
        env.run_with_stdin("volume import one", layer("/null 0666 char 1:3"))
            .fails_with(1, "make a device");
    }
}
