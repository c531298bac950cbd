//! Packet rules: nf_tables over nfnetlink (linux/netfilter/nf_tables.h).
//!
//! One table of ours, `dhow`, replaced whole in one transaction: what was in it before, whoever
//! left it there, is gone, and the packets in between see the old rules or the new.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use nix::errno::Errno;

use crate::{
    oci::Hasher,
    sys::netlink::{
        APPEND, Attributes, CREATE, Holder as _, Netlink, Refusal, Request, attributes,
    },
};

const TABLE: &str = "dhow";
/// NFPROTO_INET: IPv4 and IPv6.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
/// NFTA_TABLE_USERDATA (Linux 5.10; older kernels have none).
const TABLE_USER_DATA: u16 = 6;
/// NFTA_RULE_*
const HANDLE: u16 = 3;
const USER_DATA: u16 = 7;
/// Docker's chain for rules of others, which it goes through before its own.
const DOCKER_USER: &str = "DOCKER-USER";
const NOTE: &str = "dhow: ";
/// The table of firewalld(1).
const FIREWALLD: &str = "firewalld";
/// The register that loads go to: 16 bytes.
const REGISTER: u32 = 1;

/// A place where packets pass, and when among others there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    pub place: Place,
    pub priority: i32,
}

/// `enum nf_inet_hooks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Place {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// Rules that packets at a hook go through, in order.
#[derive(Debug, Clone)]
pub struct Chain {
    pub name: &'static str,
    pub hook: Hook,
    pub rules: Vec<Rule>,
}

/// Replaces our table with these chains, or takes it away if there are none.
pub fn replace(netlink: &mut Netlink, chains: &[Chain]) -> Result<(), Refusal> {
    // Made first, so that there is one to delete.
    write(netlink, vec![table(NEW_TABLE, CREATE), table(DELETE_TABLE, 0)], chains)
}

/// Has our table be of these chains: as [`replace`], unless it is, as far as its stamp tells.
///
/// What is deleted has its price: the kernel frees it after a grace period of RCU, some 10 ms, and
/// has whoever closes an nfnetlink socket in this network wait until then (`nft_rcv_nl_event`).
pub fn settle(netlink: &mut Netlink, chains: &[Chain]) -> Result<(), Refusal> {
    match (stamp(netlink)?, chains) {
        (None, []) => Ok(()),
        (None, _) => write(netlink, Vec::new(), chains),
        (Some(found), [_, ..]) if found == stamp_of(&made_of(chains)) => Ok(()),
        _ => replace(netlink, chains),
    }
}

fn write(
    netlink: &mut Netlink,
    mut requests: Vec<Request>,
    chains: &[Chain],
) -> Result<(), Refusal> {
    let made_of = made_of(chains);
    if !chains.is_empty() {
        requests.push(table(NEW_TABLE, CREATE).with(TABLE_USER_DATA, &stamp_of(&made_of)));
    }
    requests.extend(made_of);
    transact(netlink, &requests)
}

fn transact(netlink: &mut Netlink, requests: &[Request]) -> Result<(), Refusal> {
    let batch = |kind| Request::new(kind, 0, &[0, 0, 0, 10]);
    netlink.transact(&batch(BATCH_BEGIN), requests, &batch(BATCH_END))
}

fn table(kind: u16, flags: u16) -> Request {
    request(kind, flags).with_text(1, TABLE)
}

fn made_of(chains: &[Chain]) -> Vec<Request> {
    let rules = |chain: &Chain| -> Vec<Request> {
        chain.rules.iter().map(|rule| new_rule(chain.name, rule)).collect()
    };
    chains.iter().flat_map(|chain| [vec![new_chain(chain)], rules(chain)].concat()).collect()
}

/// By which a table is known to have been made of these requests: a comment.
fn stamp_of(requests: &[Request]) -> Vec<u8> {
    let mut hasher = Hasher::default();
    requests.iter().for_each(|request| hasher.update(request.as_bytes()));
    comment(&hasher.finish().to_string())
}

/// What our table has as its stamp, by which one is told from any other; `None` if there is no
/// table, and empty on a kernel that keeps none.
pub fn stamp(netlink: &mut Netlink) -> Result<Option<Vec<u8>>, Refusal> {
    let family = [INET, 0, 0, 0];
    let asked = Request::new(SUBSYSTEM << 8 | GET_TABLE, 0, &family).with_text(1, TABLE);
    match netlink.call_all(&[asked]) {
        Err(refusal) if refusal.errno == Errno::ENOENT => Ok(None),
        Err(refusal) => Err(refusal),
        Ok(told) => {
            let mut found = told.iter().flat_map(|table| table.attributes(4));
            let found = found.find(|(kind, _)| *kind == TABLE_USER_DATA);
            Ok(Some(found.map(|(_, stamp)| stamp.to_vec()).unwrap_or_default()))
        }
    }
}

/// A chain of somebody else's that drops what none of its rules accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropping {
    pub table: String,
    pub name: String,
    /// NFPROTO_*: the number of the packets' family.
    pub family: u8,
    pub place: Place,
    /// Its table has docker's chain for rules of others.
    pub has_docker_user: bool,
}

impl Dropping {
    /// nft's word.
    pub fn family(&self) -> &'static str {
        match self.family {
            INET => "inet",
            2 => "ip",
            10 => "ip6",
            _ => "bridge",
        }
    }

    /// Whether firewalld made it.
    pub fn is_firewalld(&self) -> bool {
        self.table == FIREWALLD
    }

    /// Whether iptables made it.
    pub fn is_iptables(&self) -> bool {
        self.family == 2 && self.table == "filter" && ["INPUT", "FORWARD"].contains(&&*self.name)
    }
}

impl fmt::Display for Dropping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family(), self.table, self.name)
    }
}

/// What is in the tables of others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Others {
    /// Chains that drop by default what is forwarded or comes in, of each family.
    pub dropping: Vec<Dropping>,
    /// firewalld has a table.
    pub has_firewalld: bool,
}

/// The chains of other tables that drop by default what is forwarded or comes in, by IPv4 or both
/// families.
pub fn dropping(netlink: &mut Netlink) -> Result<Vec<Dropping>, Refusal> {
    let mut found = others(netlink)?.dropping;
    found.retain(|chain| [INET, IPV4].contains(&chain.family));
    Ok(found)
}

/// What others have that is in the way of forwarding.
pub fn others(netlink: &mut Netlink) -> Result<Others, Refusal> {
    // Of every family: NFPROTO_UNSPEC.
    let listed = netlink.list(&Request::new(SUBSYSTEM << 8 | GET_CHAIN, 0, &[0; 4]))?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    let number = |value: &[u8]| value.try_into().ok().map(u32::from_be_bytes);
    let (mut found, mut docker, mut has_firewalld) = (Vec::new(), Vec::new(), false);
    for answer in &listed {
        let get = |wanted: u16| {
            answer.attributes(4).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
        };
        let (Some(&family), Some(table), Some(name)) = (answer.body.first(), get(1), get(3)) else {
            continue;
        };
        let (table, name) = (text(table), text(name));
        // With iptables' tables instead of one of its own it begins such chains.
        has_firewalld |= table == FIREWALLD || name == "FORWARD_direct";
        if name == DOCKER_USER {
            docker.push((family, table.clone()));
        }
        let hook = get(4).and_then(|hook| attributes(hook).find(|(kind, _)| *kind == 1));
        let place = match hook.and_then(|(_, place)| number(place)) {
            Some(1) => Place::Input,
            Some(2) => Place::Forward,
            _ => continue,
        };
        // NF_DROP is 0.
        let drops = get(5).and_then(number) == Some(0);
        if drops && [INET, IPV4, IPV6].contains(&family) && (family, &*table) != (INET, TABLE) {
            found.push(Dropping { table, name, family, place, has_docker_user: false });
        }
    }
    for chain in &mut found {
        chain.has_docker_user =
            docker.iter().any(|(family, table)| (*family, table) == (chain.family, &chain.table));
    }
    Ok(Others { dropping: found, has_firewalld })
}

/// Keeps docker's firewall from dropping what is forwarded from and to these bridges, by rules in
/// the chain that docker leaves to others. What rules of ours were there before, whoever left
/// them, goes; without bridges there is none. They are such as iptables writes, too.
///
/// Traffic to docker's own bridges is left for docker's rules to judge, and what comes to ours is
/// judged by our own table.
pub fn pass_docker(
    netlink: &mut Netlink,
    others: &Others,
    bridges: &[&str],
) -> Result<(), Refusal> {
    let is_theirs = |chain: &&Dropping| chain.place == Place::Forward && chain.has_docker_user;
    for chain in others.dropping.iter().filter(is_theirs) {
        let wanted: Vec<(Vec<u8>, Rule)> = bridges
            .iter()
            .flat_map(|bridge| passes(bridge).map(|rule| (note(bridge), rule)))
            .collect();
        let ours = noted(netlink, chain)?;
        if ours.iter().map(|rule| &rule.note).eq(wanted.iter().map(|(note, _)| note)) {
            continue;
        }
        let of_chain = |kind, flags| docker_user(chain, kind, flags);
        let gone = ours.iter().map(|rule| of_chain(DELETE_RULE, 0).with(HANDLE, &rule.handle));
        // Each goes in front of those before it.
        let new = wanted.iter().rev().map(|(note, rule)| {
            of_chain(NEW_RULE, CREATE).with_nest(4, &rule.0).with(USER_DATA, note)
        });
        let requests: Vec<Request> = gone.chain(new).collect();
        transact(netlink, &requests)?;
    }
    Ok(())
}

/// What is forwarded from and to this bridge.
fn passes(bridge: &str) -> [Rule; 5] {
    let from = || Rule::new().from_link(bridge);
    // With br_netfilter what stays on the bridge is forwarded, too.
    let within = from().to_link(bridge).accept();
    // Docker's names for its own, unless somebody chose another.
    let to_docker = ["docker", "br-"].map(|theirs| from().out_by_links_like(theirs).leave());
    let [first, second] = to_docker;
    [within, first, second, from().accept(), Rule::new().to_link(bridge).accept()]
}

/// By which a rule of ours is found among others: a comment as nft and iptables show it.
fn note(bridge: &str) -> Vec<u8> {
    comment(&[NOTE, bridge].concat())
}

/// A comment as nft(8) keeps it in user data: a type, a length, and a string with its NUL.
fn comment(text: &str) -> Vec<u8> {
    let text = [text.as_bytes(), b"\0"].concat();
    [&[0, u8::try_from(text.len()).unwrap_or(0)][..], &text].concat()
}

/// A rule of ours in a chain of somebody else's.
struct Noted {
    handle: Vec<u8>,
    note: Vec<u8>,
}

/// Our rules in docker's chain, in their order.
fn noted(netlink: &mut Netlink, chain: &Dropping) -> Result<Vec<Noted>, Refusal> {
    let listed = netlink.list(&docker_user(chain, GET_RULE, 0))?;
    let rules = listed.iter().filter_map(|rule| {
        let get = |wanted| rule.attributes(4).find(|(kind, _)| *kind == wanted);
        let is_there = |kind, name: &str| {
            get(kind).is_some_and(|(_, value)| value.strip_suffix(b"\0") == Some(name.as_bytes()))
        };
        let (_, note) = get(USER_DATA)?;
        let is_ours = note.get(2..).is_some_and(|text| text.starts_with(NOTE.as_bytes()))
            && is_there(1, &chain.table)
            && is_there(2, DOCKER_USER);
        let (_, handle) = get(HANDLE).filter(|_| is_ours)?;
        Some(Noted { handle: handle.to_vec(), note: note.to_vec() })
    });
    Ok(rules.collect())
}

/// A request about docker's chain for others, in the table of `chain`.
fn docker_user(chain: &Dropping, kind: u16, flags: u16) -> Request {
    Request::new(SUBSYSTEM << 8 | kind, flags, &[chain.family, 0, 0, 0])
        .with_text(1, &chain.table)
        .with_text(2, DOCKER_USER)
}

fn request(kind: u16, flags: u16) -> Request {
    Request::new(SUBSYSTEM << 8 | kind, flags, &[INET, 0, 0, 0])
}

fn new_chain(chain: &Chain) -> Request {
    let hook = Attributes::new()
        .with(1, &(chain.hook.place as u32).to_be_bytes())
        .with(2, &chain.hook.priority.to_be_bytes());
    request(NEW_CHAIN, CREATE)
        .with_text(1, TABLE)
        .with_text(3, chain.name)
        .with_nest(4, &hook)
        .with_text(7, chain.hook.kind)
}

fn new_rule(chain: &str, rule: &Rule) -> Request {
    request(NEW_RULE, CREATE | APPEND).with_text(1, TABLE).with_text(2, chain).with_nest(4, &rule.0)
}

/// Conditions, then what happens to a packet that meets all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule(Attributes);

impl Rule {
    pub fn new() -> Self {
        Self::default()
    }

    fn expression(self, name: &str, data: &Attributes) -> Self {
        let expression = Attributes::new().with_text(1, name).with_nest(2, data);
        Self(self.0.with_nest(1, &expression))
    }

    fn meta(self, key: u32) -> Self {
        self.expression("meta", &numbers(&[(1, REGISTER), (2, key)]))
    }

    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        let data = numbers(&[(1, REGISTER), (2, base), (3, offset), (4, length)]);
        self.expression("payload", &data)
    }

    fn compare(self, operation: u32, value: &[u8]) -> Self {
        let data = numbers(&[(1, REGISTER), (2, operation)]);
        self.expression("cmp", &data.with_nest(3, &Attributes::new().with(1, value)))
    }

    fn equals(self, value: &[u8]) -> Self {
        self.compare(0, value)
    }

    fn masked(self, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(0);
        let data = numbers(&[(1, REGISTER), (2, REGISTER), (3, length)])
            .with_nest(4, &Attributes::new().with(1, mask))
            .with_nest(5, &Attributes::new().with(1, &vec![0; mask.len()]));
        self.expression("bitwise", &data)
    }

    fn load(self, register: u32, value: &[u8]) -> Self {
        let data = numbers(&[(1, register)]);
        self.expression("immediate", &data.with_nest(2, &Attributes::new().with(1, value)))
    }

    /// Came in by the link of this name.
    #[must_use]
    pub fn from_link(self, name: &str) -> Self {
        self.meta(6).equals(&link_name(name))
    }

    /// Goes out by the link of this name.
    #[must_use]
    pub fn to_link(self, name: &str) -> Self {
        self.meta(7).equals(&link_name(name))
    }

    /// Goes out by a link whose name begins so.
    #[must_use]
    fn out_by_links_like(self, beginning: &str) -> Self {
        self.meta(7).equals(beginning.as_bytes())
    }

    /// Goes out by any other link.
    #[must_use]
    pub fn not_to_link(self, name: &str) -> Self {
        self.meta(7).compare(1, &link_name(name))
    }

    /// Of the family that an address like this one has.
    #[must_use]
    pub fn of_family(self, like: IpAddr) -> Self {
        self.meta(15).equals(&[if like.is_ipv4() { 2 } else { 10 }])
    }

    /// Of this protocol (`IPPROTO_TCP`, ...).
    #[must_use]
    pub fn of_protocol(self, protocol: u8) -> Self {
        self.meta(16).equals(&[protocol])
    }

    /// The first packet of a TCP connection.
    #[must_use]
    pub fn opens_tcp(self) -> Self {
        const SYN_ACK_RST: u8 = 0x02 | 0x10 | 0x04;
        self.of_protocol(6).payload(2, 13, 1).masked(&[SYN_ACK_RST]).equals(&[0x02])
    }

    /// For a socket of this host that is bound to an address of another's.
    #[must_use]
    pub fn for_transparent_socket(self) -> Self {
        self.expression("socket", &numbers(&[(1, 0), (2, REGISTER)])).equals(&[1])
    }

    /// From (`source`) or to an address of this network.
    #[must_use]
    pub fn address_in(self, source: bool, network: IpAddr, prefix: u8) -> Self {
        let (rule, mask, bytes) = self.address(source, network, prefix);
        rule.masked(&mask).equals(&bytes)
    }

    /// Neither from (`source`) nor to an address of this network.
    #[must_use]
    pub fn address_not_in(self, source: bool, network: IpAddr, prefix: u8) -> Self {
        let (rule, mask, bytes) = self.address(source, network, prefix);
        rule.masked(&mask).compare(1, &bytes)
    }

    fn address(self, source: bool, network: IpAddr, prefix: u8) -> (Self, Vec<u8>, Vec<u8>) {
        let (family, bytes, offset) = match network {
            IpAddr::V4(v4) => (2, v4.octets().to_vec(), if source { 12 } else { 16 }),
            IpAddr::V6(v6) => (10, v6.octets().to_vec(), if source { 8 } else { 24 }),
        };
        let length = bytes.len();
        let mask: Vec<u8> = (0..length)
            .map(|at| {
                let bits = usize::from(prefix).saturating_sub(at * 8).min(8);
                u8::try_from(0xff00_u16 >> bits & 0xff).unwrap_or(0)
            })
            .collect();
        let network = bytes.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
        let length = u32::try_from(length).unwrap_or(4);
        // NFPROTO: the offsets are one family's.
        (self.meta(15).equals(&[family]).payload(1, offset, length), mask, network)
    }

    /// To this port.
    #[must_use]
    pub fn to_port(self, port: u16) -> Self {
        self.payload(2, 2, 2).equals(&port.to_be_bytes())
    }

    /// To an address of this host's own.
    #[must_use]
    pub fn to_this_host(self) -> Self {
        // NFTA_FIB_RESULT: the address's type; NFTA_FIB_FLAGS: of the destination.
        const ADDRESS_TYPE: u32 = 3;
        const DESTINATION: u32 = 2;
        let data = numbers(&[(1, REGISTER), (2, ADDRESS_TYPE), (3, DESTINATION)]);
        let local = u32::from(libc::RTN_LOCAL).to_ne_bytes();
        self.expression("fib", &data).equals(&local)
    }

    /// Of a connection whose destination was changed by a rule.
    #[must_use]
    pub fn of_changed_destination(self) -> Self {
        const STATUS: u32 = 2;
        const IPS_DST_NAT: u32 = 1 << 5;
        self.expression("ct", &numbers(&[(1, REGISTER), (2, STATUS)]))
            .masked(&IPS_DST_NAT.to_ne_bytes())
            .compare(1, &0_u32.to_ne_bytes())
    }

    /// Of a connection that exists, or is about one.
    #[must_use]
    pub fn of_known_connection(self) -> Self {
        const STATE: u32 = 0;
        const ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;
        self.expression("ct", &numbers(&[(1, REGISTER), (2, STATE)]))
            .masked(&ESTABLISHED_OR_RELATED.to_ne_bytes())
            .compare(1, &0_u32.to_ne_bytes())
    }

    /// Marks the packet.
    #[must_use]
    pub fn mark(self, mark: u32) -> Self {
        const MARK: u32 = 3;
        self.load(REGISTER, &mark.to_ne_bytes())
            .expression("meta", &numbers(&[(2, MARK), (3, REGISTER)]))
    }

    /// Hands a packet of the listener's family to the transparent listener at `at`.
    #[must_use]
    pub fn to_listener(self, at: SocketAddr) -> Self {
        let (family, bytes) = match at.ip() {
            IpAddr::V4(v4) => (IPV4, v4.octets().to_vec()),
            IpAddr::V6(v6) => (IPV6, v6.octets().to_vec()),
        };
        // NFTA_TPROXY_FAMILY, _REG_ADDR and _REG_PORT.
        let data = [(1, u32::from(family)), (2, REGISTER), (3, REGISTER + 1)];
        self.load(REGISTER, &bytes)
            .load(REGISTER + 1, &at.port().to_be_bytes())
            .expression("tproxy", &numbers(&data))
    }

    /// Replaces the source with the address of the link by which the packet leaves.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.expression("masq", &Attributes::new())
    }

    /// Replaces the destination.
    #[must_use]
    pub fn redirect(self, address: IpAddr, port: u16) -> Self {
        const DNAT: u32 = 1;
        let (family, bytes) = match address {
            IpAddr::V4(v4) => (2, v4.octets().to_vec()),
            IpAddr::V6(v6) => (10, v6.octets().to_vec()),
        };
        self.load(1, &bytes)
            .load(2, &port.to_be_bytes())
            .expression("nat", &numbers(&[(1, DNAT), (2, family), (3, 1), (4, 1), (5, 2), (6, 2)]))
    }

    #[must_use]
    pub fn accept(self) -> Self {
        self.verdict(1)
    }

    #[must_use]
    pub fn drop(self) -> Self {
        self.verdict(0)
    }

    /// Goes on behind the rule that led to this chain.
    #[must_use]
    fn leave(self) -> Self {
        // NFT_RETURN is -5.
        self.verdict((-5_i32).cast_unsigned())
    }

    fn verdict(self, code: u32) -> Self {
        let verdict = Attributes::new().with_nest(2, &numbers(&[(1, code)]));
        self.expression("immediate", &numbers(&[(1, 0)]).with_nest(2, &verdict))
    }
}

/// Attributes that are numbers, in the network's order as nf_tables has them.
fn numbers(list: &[(u16, u32)]) -> Attributes {
    list.iter().fold(Attributes::new(), |all, (kind, value)| all.with(*kind, &value.to_be_bytes()))
}

/// A link's name as the kernel compares it: 16 bytes.
fn link_name(name: &str) -> [u8; libc::IFNAMSIZ] {
    let mut bytes = [0; libc::IFNAMSIZ];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from;
    }
    bytes
}
