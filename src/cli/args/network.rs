//! `network`: its verbs' flags.

use clap::Args;

/// Make a network
#[derive(Debug, Args)]
pub struct Create {
    /// Driver: bridge, or as root macvlan or ipvlan
    #[arg(short, long, default_value = "bridge")]
    pub driver: String,
    /// Subnet in CIDR form, one for each address family
    #[arg(long)]
    pub subnet: Vec<String>,
    /// Router's address in the subnet
    #[arg(long)]
    pub gateway: Vec<String>,
    /// Part of the subnet that containers get addresses from
    #[arg(long)]
    pub ip_range: Vec<String>,
    /// IPv6 addresses as well
    #[arg(long)]
    pub ipv6: bool,
    /// Containers do not find each other by name, and ask the host's resolvers themselves
    #[arg(long)]
    pub disable_dns: bool,
    /// Resolver for what is not a container's name, instead of the host's
    #[arg(long)]
    pub dns: Vec<String>,
    /// No way to the world, and none from it
    #[arg(long)]
    pub internal: bool,
    /// Where its containers may go: deny, record, or allow=HOST[:PORT],*.DOMAIN,CIDR[:PORT]... (an echo needs one without a port)
    #[arg(long, value_name = "POLICY")]
    pub egress: Vec<String>,
    /// Address that no container gets (NAME=ADDRESS)
    #[arg(long)]
    pub aux_address: Vec<String>,
    /// Way to somewhere else (DESTINATION,GATEWAY[,METRIC])
    #[arg(long)]
    pub route: Vec<String>,
    /// The host's link of a macvlan or ipvlan network, as -o parent=LINK
    #[arg(long)]
    pub interface_name: Option<String>,
    /// IPv4 addresses
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub ipv4: bool,
    /// Who gives addresses: default
    #[arg(long, value_name = "DRIVER")]
    pub ipam_driver: Option<String>,
    /// Driver option: mtu=N; parent=LINK, mode=MODE
    #[arg(short, long)]
    pub opt: Vec<String>,
    /// No network, but the options that others are made with
    #[arg(long)]
    pub config_only: bool,
    /// Take all other options from a network that was made with --config-only
    #[arg(long, value_name = "NETWORK")]
    pub config_from: Option<String>,
    /// Accepted for docker's sake: containers can be attached to every network
    #[arg(long)]
    pub attachable: bool,
    /// Accepted for docker's sake, and shown by inspect (KEY=VALUE)
    #[arg(long)]
    pub ipam_opt: Vec<String>,
    /// How far it reaches: local
    #[arg(long)]
    pub scope: Option<String>,
    /// Set a label (key=value)
    #[arg(long)]
    pub label: Vec<String>,
    /// Succeed if there is a network of this name
    #[arg(long)]
    pub ignore: bool,
    #[arg(value_name = "NETWORK")]
    pub name: String,
}

/// Tell where a container went
///
/// Every name, address and port that a container with an egress policy contacted or wanted to:
/// what became of it, how often, and how many bytes.
#[derive(Debug, Args)]
pub struct Log {
    /// Go template, `table TEMPLATE` or json
    #[arg(long)]
    pub format: Option<String>,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// List networks
#[derive(Debug, Args)]
pub struct Ls {
    /// Filter: dangling=, driver=, id=, label=, name=, scope=, type=builtin|custom, until=
    #[arg(short, long)]
    pub filter: Vec<String>,
    /// Go template, `table TEMPLATE` or json
    #[arg(long)]
    pub format: Option<String>,
    /// Without the heading
    #[arg(short, long)]
    pub noheading: bool,
    /// Whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Describe networks
#[derive(Debug, Args)]
pub struct Inspect {
    /// Go template or json
    #[arg(short, long)]
    pub format: Option<String>,
    /// Also the tasks of a cluster, of which there are none
    #[arg(short, long)]
    pub verbose: bool,
    #[arg(value_name = "NETWORK", required = true)]
    pub names: Vec<String>,
}

/// Remove networks
#[derive(Debug, Args)]
pub struct Rm {
    /// No error if there is no such network
    #[arg(short, long)]
    pub force: bool,
    /// With --force: give the network's containers so many seconds to stop, and remove them, too;
    /// -1 is for ever
    #[arg(short, long, requires = "force", allow_negative_numbers = true)]
    pub time: Option<i64>,
    #[arg(value_name = "NETWORK", required = true)]
    pub names: Vec<String>,
}

/// Remove networks that no container uses
#[derive(Debug, Args)]
pub struct Prune {
    /// Remove only what matches (until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE])
    #[arg(long)]
    pub filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// Tell by the exit code whether a network exists
#[derive(Debug, Args)]
pub struct Exists {
    #[arg(value_name = "NETWORK")]
    pub name: String,
}

/// Change the resolvers that a network's containers have
#[derive(Debug, Args)]
pub struct Update {
    /// Resolver that is asked from now on
    #[arg(long, value_delimiter = ',')]
    pub dns_add: Vec<String>,
    /// Resolver that is not asked any more
    #[arg(long, value_delimiter = ',')]
    pub dns_drop: Vec<String>,
    #[arg(value_name = "NETWORK")]
    pub name: String,
}

/// Connect a container to a network
#[derive(Debug, Args)]
pub struct Connect {
    /// Another name of the container there
    #[arg(long)]
    pub alias: Vec<String>,
    /// Address of the container there
    #[arg(long)]
    pub ip: Option<String>,
    /// IPv6 address of the container there
    #[arg(long)]
    pub ip6: Option<String>,
    /// Of several networks the one with the highest priority leads out
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub gw_priority: i32,
    /// Name for another container there (CONTAINER[:ALIAS])
    #[arg(long)]
    pub link: Vec<String>,
    /// A further address of the container, for who is on the same network
    #[arg(long)]
    pub link_local_ip: Vec<String>,
    /// MAC address of the container there
    #[arg(long)]
    pub mac_address: Option<String>,
    /// Option of the driver (com.docker.network.endpoint.ifname=NAME)
    #[arg(long)]
    pub driver_opt: Vec<String>,
    #[arg(value_name = "NETWORK")]
    pub network: String,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// Take a container off a network
#[derive(Debug, Args)]
pub struct Disconnect {
    /// Also off a network that is not there any more
    #[arg(short, long)]
    pub force: bool,
    #[arg(value_name = "NETWORK")]
    pub network: String,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// Make the links, rules and ports of running containers anew
#[derive(Debug, Args)]
pub struct Reload {
    /// Of all that run
    #[arg(short, long, conflicts_with = "containers")]
    pub all: bool,
    /// Of the container that was made last
    #[arg(short, long, conflicts_with_all = ["containers", "all"])]
    pub latest: bool,
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "latest"])]
    pub containers: Vec<String>,
}
