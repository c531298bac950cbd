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
    ] {
        inside(&env, &format!("{flags} busy true")).fails_with(125, why);
    }
}

mod limits {
    use super::{Env, busy, inside};
    use crate::needs::needs;

    /// The content of the container's own cgroup file.
    fn reads(env: &Env, flags: &str, file: &str) -> String {
        inside(env, &format!("{flags} busy cat /sys/fs/cgroup/{file}")).text()
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
