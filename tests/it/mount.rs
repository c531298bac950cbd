//! `image mount` and `image unmount`.

use crate::{env::Env, fixture::BUSY};

mod as_root {
    use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

    use super::{BUSY, Env};

    #[test]
    fn an_image_is_a_directory_that_cannot_be_written_to() {
        let env = Env::with(
            "app:1",
            &format!("{BUSY}\n/gone 0644 x\n---\n/gone whiteout\n/new 0644 new"),
        );
        env.image("flat:1", "/only 0644 only\n/gone whiteout\n/null 0666 char 1:3");
        let place = env.run("image mount app:1").text();
        let place = Path::new(&place);
        assert_eq!(fs::read_to_string(place.join("new")).unwrap(), "new\n");
        assert!(!place.join("gone").exists() && place.join("bin/busybox").exists());
        let refused = fs::write(place.join("more"), "x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(30), "EROFS");
        // Once is enough.
        env.run("image mount app:1").prints(&format!("{}\n", place.display()));
        let list = env.run("image mount").prints(&format!("app:1  {}\n", place.display()));
        drop(list);

        let flat = env.run("image mount flat:1").text();
        let flat = Path::new(&flat);
        assert_eq!(fs::read_to_string(flat.join("only")).unwrap(), "only\n");
        assert!(!flat.join("gone").exists(), "a whiteout of the only layer is nothing");
        assert!(fs::File::open(flat.join("null")).is_err(), "devices open for nobody");
        let json = env.run("image mount --format json").json();
        assert_eq!(json.as_array().unwrap().len(), 2);
        assert_eq!(
            json[0]["mountpoint"].as_str().map(Path::new).unwrap().metadata().unwrap().uid(),
            0
        );

        env.run("rmi app:1").fails_with(1, "is mounted at").tells("image unmount");
        env.run("image prune -af").hides("app:1");
        env.run("system check").shows("The store is whole");
        let open = fs::File::open(place.join("new")).unwrap();
        env.run("image unmount app:1").fails_with(1, "somebody uses it");
        drop(open);
        env.run("image unmount app:1").exits(0);
        env.run("image unmount app:1").fails_with(1, "is not mounted");
        assert!(!place.exists());
        env.run("rmi -f flat:1").shows("Untagged: flat:1");
        env.run("image mount").prints("");
        let both = env.run("image mount --all");
        both.shows("app:1  /");
        env.run("image umount --all").exits(0);
        env.run("image mount nosuch app:1").exits(1).tells("No such image: nosuch");
        env.run("image mount --format x").fails_with(1, "only supported value");
        env.run("image unmount nosuch").fails_with(1, "No such image: nosuch");
        env.run("image unmount").exits(125);
        // What is thrown away is not in use any more.
        env.run("system reset -f").exits(0);
        assert!(!place.exists());
    }
}

mod rootless {
    use super::{BUSY, Env};

    #[test]
    fn who_is_not_root_is_told_where_it_works() {
        let env = Env::with("app:1", BUSY);
        for verb in ["mount", "unmount"] {
            env.run(&format!("image {verb} app:1"))
                .fails_with(1, "in rootless mode")
                .tells("dhow unshare");
        }
        env.run("image mount").prints("");
        env.run("image mount nosuch").fails_with(1, "No such image: nosuch");
    }
}
