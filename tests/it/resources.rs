//! Limits, read from inside, where cgroup v2 has the controllers; and what is said where not.

use crate::{
    env::{Env, Run},
    fixture::BUSY,
    needs::cgroup,
};

fn busy() -> Env {
    Env::with("busy", BUSY)
}

fn inside(env: &Env, rest: &str) -> Run {
    env.run(&format!("run --rm --network none {rest}"))
}

#[test]
fn a_limit_without_its_controller_is_an_error_that_names_it() {
    let env = busy();
    for (flags, controller) in [
        ("-m 64m", "memory"),
        ("--memory-reservation 64m", "memory"),
        ("--pids-limit 10", "pids"),
        ("--cpus 0.5", "cpu"),
        ("--cpu-shares 512", "cpu"),
        ("--cpuset-cpus 0", "cpuset"),
    ] {
        if cgroup(controller).is_ok() {
            continue; // limits:: has those
        }
        inside(&env, &format!("{flags} busy true")).fails_with(125, controller).tells("hint: ");
    }
    // No limit asked for is no error anywhere.
    inside(&env, "--pids-limit -1 -m 0 busy echo runs").prints("runs\n");
}

mod as_root {
    use super::*;
    use crate::needs::needs;

    #[test]
    fn huge_pages_are_limited_by_the_files_of_their_size() {
        needs!(cgroup("hugetlb"));
        let env = busy();
        // One without limits asks for no controller; the next can have it all the same.
        inside(&env, "busy echo up").prints("up\n");
        let conf = "--cgroup-conf hugetlb.2MB.max=4194304";
        inside(&env, &format!("{conf} busy cat /sys/fs/cgroup/hugetlb.2MB.max"))
            .prints("4194304\n");
        inside(&env, "--cgroup-conf hugetlb.3MB.max=1 busy true")
            .fails_with(125, "hugetlb.3MB.max");
    }
}

#[test]
fn limits_that_cannot_be_are_refused_before_anything() {
    let env = busy();
    for (flags, why) in [
        ("-m 1m", "Minimum memory limit allowed is 6MB"),
        ("-m lots", "--memory"),
        ("--memory-swap 64m", "Memory limit"),
        ("-m 64m --memory-swap 32m", "Minimum memoryswap limit"),
        ("-m 32m --memory-reservation 64m", "memory reservation"),
        ("--cpus 1000", "Range of CPUs"),
        ("--cpus x", "--cpus"),
        ("--cpus 1 --cpu-quota 1000", "cannot be used together with --cpus"),
        ("--cpu-period 10", "CPU cfs period"),
        ("--cpuset-cpus a", "cpuset"),
        ("--blkio-weight 5", "Range of blkio weight is from 10 to 1000"),
        ("--blkio-weight-device /dev/loop0:5", "invalid weight for device"),
        ("--device-read-bps /tmp:1", "bad format for device path: /tmp:1"),
        ("--device-write-bps /dev/loop0:x", "invalid rate for device"),
        ("--device-read-iops /dev/no-such:5", "/dev/no-such"),
        ("--device-write-iops /dev/null:5", "/dev/null is not a block device"),
        ("--cgroup-conf memory.high", "FILE=TEXT"),
        ("--cgroup-conf ../x.y=1", "not a cgroup v2 file"),
        ("--memory-swappiness 101", "Valid memory swappiness range is 0-100"),
        ("--cpu-rt-runtime 1", "kernel does not support CPU real-time scheduler"),
        ("--cpu-rt-period=1", "kernel does not support CPU real-time scheduler"),
    ] {
        inside(&env, &format!("{flags} busy true")).fails_with(125, why);
    }
}

#[test]
fn limits_that_only_cgroup_v1_had_are_told_of() {
    let env = busy();
    for (flag, what) in [
        ("--memory-swappiness 10", "Memory swappiness discarded"),
        ("--oom-kill-disable", "OomKillDisable discarded"),
        ("--kernel-memory 10m", "Kernel memory limit discarded"),
    ] {
        inside(&env, &format!("{flag} busy echo runs")).warns(what).prints("runs\n");
    }
    inside(&env, "--memory-swappiness -1 --oom-kill-disable=false busy echo runs").prints("runs\n");
}

mod limits {
    use super::{Env, busy, inside};
    use crate::needs::needs;

    /// The content of the container's own cgroup file.
    fn reads(env: &Env, flags: &str, file: &str) -> String {
        inside(env, &format!("{flags} busy cat /sys/fs/cgroup/{file}")).text()
    }

    /// The kernel has its own order of devices.
    fn sorted(text: &str) -> Vec<&str> {
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn memory_is_limited() {
        needs!(cgroup("memory"));
        let env = busy();
        assert_eq!(reads(&env, "", "memory.max"), "max");
        assert_eq!(reads(&env, "-m 64m", "memory.max"), (64 << 20).to_string());
        assert_eq!(reads(&env, "--memory-reservation 32m", "memory.low"), (32 << 20).to_string());
        assert_eq!(reads(&env, "-m 64m --memory-reservation 32m", "memory.low"), "33554432");
    }

    #[test]
    fn swap_is_what_is_beyond_memory() {
        needs!(cgroup("memory"));
        let env = busy();
        let swap = "memory.swap.max";
        if inside(&env, "busy ls /sys/fs/cgroup").text().contains(swap) {
            assert_eq!(reads(&env, "-m 64m", swap), (64 << 20).to_string());
            assert_eq!(reads(&env, "-m 64m --memory-swap 64m", swap), "0");
            assert_eq!(reads(&env, "-m 64m --memory-swap -1", swap), "max");
        }
    }

    #[test]
    fn the_oom_killer_is_told_of() {
        needs!(cgroup("memory"));
        let env = busy();
        // tail keeps a line that never ends.
        let id = env
            .run("run -d --name a --network none -m 8m --memory-swap 8m busy sh -c 'exec tail /dev/zero'")
            .text();
        env.run("wait a").prints("137\n");
        let state = env.root().join("containers").join(&id).join("state.json");
        let state: serde_json::Value =
            serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
        assert_eq!((&state["oom_killed"], &state["exit_code"]), (&true.into(), &137.into()));
        // Killed by someone else is another thing.
        let id = env.run("run -d --name b --network none -m 64m busy sleep 1000").text();
        env.run("kill b").ok();
        env.run("wait b").prints("137\n");
        let state = env.root().join("containers").join(&id).join("state.json");
        let state: serde_json::Value =
            serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
        assert_eq!((&state["oom_killed"], &state["exit_code"]), (&false.into(), &137.into()));
    }

    #[test]
    fn cpu_time_is_limited() {
        needs!(cgroup("cpu"));
        let env = busy();
        assert_eq!(reads(&env, "--cpus 0.5", "cpu.max"), "50000 100000");
        assert_eq!(reads(&env, "--cpu-quota 20000 --cpu-period 50000", "cpu.max"), "20000 50000");
        assert_eq!(reads(&env, "-c 1024", "cpu.weight"), "100");
    }

    #[test]
    fn cpus_are_chosen() {
        needs!(cgroup("cpuset"));
        let env = busy();
        assert_eq!(reads(&env, "--cpuset-cpus 0", "cpuset.cpus"), "0");
        assert_eq!(reads(&env, "--cpuset-mems 0", "cpuset.mems"), "0");
        inside(&env, "--cpuset-cpus 0 busy nproc").prints("1\n");
        inside(&env, "--cpuset-cpus 4000 busy true").fails_with(125, "4000");
    }

    #[test]
    fn processes_are_limited() {
        needs!(cgroup("pids"));
        let env = busy();
        assert_eq!(reads(&env, "--pids-limit 20", "pids.max"), "20");
        assert_eq!(reads(&env, "--pids-limit -1", "pids.max"), "max");
        inside(&env, "--pids-limit 3 busy sh -c 'for i in 1 2 3 4 5; do sleep 0.1 & done; wait'")
            .tells("Resource temporarily unavailable");
    }

    #[test]
    fn block_devices_are_limited() {
        needs!(cgroup("io"));
        needs!(device("/dev/loop0"));
        let env = busy();
        let rates = "--device-read-bps /dev/loop0:1mb --device-write-iops /dev/loop0:20";
        assert_eq!(reads(&env, rates, "io.max"), "7:0 rbps=1048576 wbps=max riops=max wiops=20");
        let rates = "--device-write-bps /dev/loop0:2k --device-read-iops /dev/loop1:7";
        assert_eq!(
            sorted(&reads(&env, rates, "io.max")),
            [
                "7:0 rbps=max wbps=2048 riops=max wiops=max",
                "7:1 rbps=max wbps=max riops=7 wiops=max"
            ]
        );
        let files = inside(&env, "--blkio-weight 500 busy ls /sys/fs/cgroup").text();
        if files.contains("io.bfq.weight") {
            assert_eq!(reads(&env, "--blkio-weight 500", "io.bfq.weight"), "default 500");
        } else {
            let flags = "--blkio-weight 500 --blkio-weight-device /dev/loop0:1000";
            assert_eq!(reads(&env, flags, "io.weight"), "default 4950\n7:0 10000");
        }
    }

    #[test]
    fn an_update_of_one_device_leaves_the_others() {
        needs!(cgroup("io"));
        needs!(device("/dev/loop0"));
        let env = busy();
        env.run(
            "run -d --name one --network none --device-read-bps /dev/loop0:1mb \
             --device-read-bps /dev/loop1:1mb busy sleep 1000",
        )
        .ok();
        env.run("update --device-read-bps /dev/loop0:2mb --blkio-weight 10 one").prints("one\n");
        assert_eq!(
            sorted(&env.run("exec one cat /sys/fs/cgroup/io.max").text()),
            [
                "7:0 rbps=2097152 wbps=max riops=max wiops=max",
                "7:1 rbps=1048576 wbps=max riops=max wiops=max",
            ]
        );
        let shown = "inspect -f {{.HostConfig.BlkioWeight}}{{.HostConfig.BlkioDeviceReadBps}} one";
        env.run(shown)
            .prints("10[map[Path:/dev/loop1 Rate:1048576] map[Path:/dev/loop0 Rate:2097152]]\n");
        env.run("rm -f one").ok();
    }

    #[test]
    fn each_limit_can_be_changed() {
        needs!(cgroup("cpuset"));
        needs!(cgroup("memory"));
        needs!(device("/dev/loop0"));
        let env = busy();
        env.run("run -d --name one --network none busy sleep 1000").ok();
        let reads = |flags: &str, file: &str| {
            env.run(&format!("{flags} one")).prints("one\n");
            env.run(&format!("exec one cat /sys/fs/cgroup/{file}")).text()
        };
        assert_eq!(reads("update --cpus 0.5", "cpu.max"), "50000 100000");
        assert_eq!(reads("update --cpu-shares 1024", "cpu.weight"), "100");
        assert_eq!(reads("update --cpuset-cpus 0 --cpuset-mems 0", "cpuset.cpus"), "0");
        assert_eq!(reads("update --memory-reservation 32m", "memory.low"), "33554432");
        assert_eq!(reads("update -m 64m --memory-swap -1", "memory.max"), "67108864");
        assert_eq!(reads("update --memory-swap 64m", "memory.max"), "67108864");
        if env.run("exec one ls /sys/fs/cgroup").text().contains("memory.swap.max") {
            env.run("exec one cat /sys/fs/cgroup/memory.swap.max").prints("0\n");
        }
        assert_eq!(reads("update --pids-limit 33", "pids.max"), "33");
        assert_eq!(reads("update --pids-limit -1", "pids.max"), "max");
        let rates = "update --device-read-iops /dev/loop0:5 --device-write-bps /dev/loop0:1k \
                     --device-write-iops /dev/loop0:6";
        assert_eq!(reads(rates, "io.max"), "7:0 rbps=max wbps=1024 riops=5 wiops=6");
        // Schedulers without weights refuse them: the kernel's word, and the file's name.
        let run = env.run("update --blkio-weight-device /dev/loop0:1000 one");
        assert!(run.code == 0 || run.stderr.contains("io.weight"), "{}", run.stderr);
        env.run("run -d --name two --network none busy sleep 1000").ok();
        env.run("update --cpu-period 50000 --cpu-quota 20000 two").prints("two\n");
        env.run("exec two cat /sys/fs/cgroup/cpu.max").prints("20000 50000\n");
        env.run("update --memory-swappiness 10 --restart no two").warns("swappiness discarded");
        env.run("rm -f one two").ok();
    }

    #[test]
    fn any_file_of_the_cgroup_can_be_written() {
        needs!(cgroup("memory"));
        let env = busy();
        assert_eq!(reads(&env, "--cgroup-conf memory.high=67108864", "memory.high"), "67108864");
        inside(&env, "--cgroup-conf memory.nosuch=1 busy true").fails_with(125, "memory.nosuch");
    }

    #[test]
    fn an_exec_is_below_the_same_limits() {
        needs!(cgroup("pids"));
        let env = busy();
        env.run("run -d --name a --network none --pids-limit 50 busy sleep 1000").ok();
        env.run("exec a cat /sys/fs/cgroup/pids.max").prints("50\n");
        let count = env.run("exec a cat /sys/fs/cgroup/pids.current").text();
        // The container's own process and this one; a process on its way out may still count.
        assert!(count.parse::<u32>().unwrap() >= 2, "{count}");
    }
}
