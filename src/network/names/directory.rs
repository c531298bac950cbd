//! Who is on which network, and by which names the others there find them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    message::{Code, PTR, Question, Record, reverse},
    resolvers::PORT,
};
use crate::{
    network::{
        attachment::{Attachment, Endpoint},
        egress::HOST_NAMES,
    },
    state::{ContainerId, network::LinkRecord},
};

/// The containers that can ask and be asked for.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    pub(crate) members: BTreeMap<ContainerId, Attachment>,
    /// The host's address to everyone; otherwise it is each network's router.
    pub(crate) host: Option<IpAddr>,
}

/// What becomes of a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Records(Vec<Record>),
    /// It is for these resolvers; for the host's if there are none.
    Elsewhere(Vec<SocketAddr>),
    Nothing(Code),
}

impl Directory {
    /// The answer to a question, as the container at `asker` may have it: it sees who is on the
    /// networks that it is on itself.
    pub(crate) fn find(&self, asker: IpAddr, question: &Question) -> Found {
        let Some((_, asker)) = self.member_at(asker) else {
            return Found::Nothing(Code::Refused);
        };
        if !question.is_internet {
            return Found::Nothing(Code::NotImplemented);
        }
        let name = question.name.trim_end_matches('.');
        if HOST_NAMES.contains(&name) {
            return Found::Records(self.host_of(asker).map(Record::Address).collect());
        }
        if question.kind == PTR
            && let Some(found) = reverse(name).and_then(|ip| self.named(asker, ip))
        {
            return found;
        }
        if let Some(addresses) = self.addresses(asker, name) {
            return Found::Records(addresses.into_iter().map(Record::Address).collect());
        }
        if asker.endpoints.iter().all(|end| end.segment.is_internal) {
            return Found::Nothing(Code::Failed);
        }
        // A question says something to whoever answers it.
        if !asker.egress.iter().all(|policy| policy.admits_name(name)) {
            return Found::Nothing(Code::Refused);
        }
        let chosen = asker.resolvers.iter().map(|ip| SocketAddr::new(*ip, PORT));
        Found::Elsewhere(chosen.collect())
    }

    /// The container that has this address.
    pub(super) fn member_at(&self, address: IpAddr) -> Option<(&ContainerId, &Attachment)> {
        let has = |attachment: &Attachment| {
            let mut own = attachment.endpoints.iter().flat_map(|end| end.addresses());
            own.any(|(ip, _)| ip == address)
        };
        self.members.iter().find(|(_, member)| has(member))
    }

    /// Whether an address is in a network of containers, so that only they can reach it.
    pub(crate) fn is_inside(&self, address: IpAddr) -> bool {
        let mut ends = self.members.values().flat_map(|member| &member.endpoints);
        ends.any(|end| end.segment.contains(address))
    }

    fn host_of(&self, asker: &Attachment) -> impl Iterator<Item = IpAddr> {
        let routers = asker.endpoints.first().map(|end| end.segment.routers()).unwrap_or_default();
        let routers = routers.into_iter().map(|(router, _)| router);
        let host = self.host;
        host.into_iter().chain(routers.filter(move |_| host.is_none()))
    }

    /// The addresses that a name stands for on the asker's networks; `None` if nobody has it.
    fn addresses(&self, asker: &Attachment, name: &str) -> Option<Vec<IpAddr>> {
        let mut found: Option<Vec<IpAddr>> = None;
        for own in asker.endpoints.iter().filter(|end| end.segment.has_names) {
            // `web.lan` is web on the network lan.
            let whole = name.strip_suffix(own.segment.network.to_ascii_lowercase().as_str());
            let short = whole.and_then(|rest| rest.strip_suffix('.'));
            for (id, member) in &self.members {
                let ends = member.endpoints.iter();
                for end in ends.filter(|end| end.segment.network == own.segment.network) {
                    let is_linked = |name: &str| {
                        let is = |link: &&LinkRecord| {
                            link.container == *id && link.alias.eq_ignore_ascii_case(name)
                        };
                        own.links.iter().any(|link| is(&link))
                    };
                    let is_it = |name: &str| is_linked(name) || answers_to(member, end, name);
                    if is_it(name) || short.is_some_and(is_it) {
                        let addresses = end.addresses().into_iter().map(|(ip, _)| ip);
                        found.get_or_insert_default().extend(addresses);
                    }
                }
            }
        }
        found
    }

    /// The name of who has an address in one of the asker's networks; `None` if it is in none.
    fn named(&self, asker: &Attachment, address: IpAddr) -> Option<Found> {
        let mut own = asker.endpoints.iter().filter(|end| end.segment.has_names);
        let network = &own.find(|end| end.segment.contains(address))?.segment.network;
        let has = |end: &&Endpoint| {
            end.segment.network == *network && end.addresses().iter().any(|(ip, _)| *ip == address)
        };
        let found =
            self.members.values().find(|member| member.endpoints.iter().any(|end| has(&end)));
        Some(match found.and_then(|member| member.names.first()) {
            Some(name) => Found::Records(vec![Record::Name(format!("{name}.{network}"))]),
            None => Found::Nothing(Code::NoSuchName),
        })
    }
}

fn answers_to(member: &Attachment, end: &Endpoint, name: &str) -> bool {
    member.names.iter().chain(&end.aliases).any(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{
        attachment::{Segment, Subnet},
        names::message::A,
    };

    fn end(network: &str, third: u8, last: u8, aliases: &[&str]) -> Endpoint {
        Endpoint {
            segment: Segment {
                network: network.into(),
                bridge: format!("br-{network}"),
                v4: Some(Subnet {
                    network: [10, 89, third, 0].into(),
                    prefix: 24,
                    router: [10, 89, third, 1].into(),
                }),
                v6: None,
                is_internal: network == "inner",
                has_names: network != "bridge",
                has_resolver: true,
                mtu: None,
                shared: None,
                routes: Vec::new(),
                is_isolated: false,
            },
            interface: "eth0".into(),
            v4: Some([10, 89, third, last].into()),
            v6: None,
            mac_address: String::new(),
            aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
            links: Vec::new(),
            link_local: Vec::new(),
            is_default_route: true,
            sysctls: Vec::new(),
        }
    }

    fn ask(directory: &Directory, asker: [u8; 4], name: &str, kind: u16) -> Found {
        let question =
            Question { name: name.into(), kind, is_internet: true, ..Question::default() };
        directory.find(asker.into(), &question)
    }

    #[test]
    fn containers_know_those_on_their_own_networks() {
        let mut directory = Directory::default();
        let mut add = |name: &str, endpoints: Vec<Endpoint>| {
            let id = ContainerId::random().expect("urandom");
            let names = vec![name.to_owned()];
            let member = Attachment { endpoints, names, ..Attachment::default() };
            directory.members.insert(id.clone(), member);
            id
        };
        let web = add("web", vec![end("one", 1, 2, &["www"])]);
        add("Two", vec![end("one", 1, 3, &["www"]), end("inner", 2, 3, &[])]);
        let deep = add("deep", vec![end("inner", 2, 4, &[])]);
        add("plain", vec![end("bridge", 3, 2, &[])]);
        let link = LinkRecord { container: web.clone(), alias: "db".into() };
        let from = [10, 89, 1, 3];
        for member in directory.members.values_mut().filter(|member| member.names[0] == "Two") {
            member.endpoints[0].links.push(link.clone());
        }
        let records = |list: &[[u8; 4]]| {
            Found::Records(list.iter().map(|ip| Record::Address((*ip).into())).collect())
        };
        let only = records(&[[10, 89, 1, 2]]);
        assert_eq!(ask(&directory, from, "web", A), only);
        assert_eq!(ask(&directory, from, "web.one", A), only);
        assert_eq!(ask(&directory, from, "db", A), only, "a link");
        assert_eq!(ask(&directory, from, "two", A), records(&[[10, 89, 1, 3], [10, 89, 2, 3]]));
        assert_eq!(ask(&directory, from, "two.inner", A), records(&[[10, 89, 2, 3]]));
        match ask(&directory, from, "www", A) {
            Found::Records(both) => assert_eq!(both.len(), 2),
            other @ (Found::Elsewhere(_) | Found::Nothing(_)) => panic!("{other:?}"),
        }
        let elsewhere = Found::Elsewhere(Vec::new());
        assert_eq!(ask(&directory, [10, 89, 1, 2], "db", A), elsewhere, "another's link");
        assert_eq!(ask(&directory, [10, 89, 1, 2], "deep", A), elsewhere);
        assert_eq!(ask(&directory, [10, 89, 3, 2], "plain", A), elsewhere, "docker's bridge");
        assert_eq!(ask(&directory, [10, 89, 2, 4], "x.org", A), Found::Nothing(Code::Failed));
        assert_eq!(ask(&directory, [10, 89, 9, 9], "web", A), Found::Nothing(Code::Refused));
        let host = ask(&directory, from, "host.docker.internal", A);
        assert_eq!(host, records(&[[10, 89, 1, 1]]));
        let name = |last| format!("{last}.2.89.10.in-addr.arpa");
        let deeps = Found::Records(vec![Record::Name("deep.inner".into())]);
        assert_eq!(ask(&directory, from, &name(4), PTR), deeps);
        assert_eq!(ask(&directory, from, &name(9), PTR), Found::Nothing(Code::NoSuchName));
        assert_eq!(ask(&directory, from, "1.0.0.127.in-addr.arpa", PTR), elsewhere);
        assert!(directory.is_inside([10, 89, 2, 99].into()));
        directory.members.remove(&deep);
        assert_eq!(ask(&directory, from, &name(4), PTR), Found::Nothing(Code::NoSuchName));
    }
}
