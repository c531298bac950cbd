//! What networks need that dhow does not change by itself.

use std::fs;

use super::{Finding, entries, short_name};
use crate::{
    network::{
        firewall,
        nft::{self, Dropping, Place},
    },
    state::Layout,
    sys::netlink::Netlink,
};

/// Containers that a new network role could not connect again.
pub(super) fn lost(layout: &Layout) -> Option<Finding> {
    let lost: Vec<_> = entries(&layout.run_containers())
        .into_iter()
        .filter_map(|dir| {
            let why = fs::read_to_string(dir.join("network.lost")).ok()?;
            Some((short_name(&dir), why))
        })
        .collect();
    if lost.is_empty() {
        return None;
    }
    let found: Vec<_> = lost.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    let names: Vec<_> = lost.into_iter().map(|(name, _)| name).collect();
    Some(
        Finding::warning("networks", found.join("; "))
            .because("the network role was killed, and the one in its place could not connect these containers again: they reach nobody")
            .fix(format!("dhow network reload {}", names.join(" "))),
    )
}

/// Other firewalls of the host, in whose way root's networks are: a packet that one table accepts
/// is still dropped by another.
pub(super) fn firewall() -> Option<Finding> {
    let mut open = Netlink::netfilter().ok()?;
    let has_firewalld = nft::others(&mut open).ok()?.has_firewalld;
    if has_firewalld && !firewall::answers() {
        return Some(silent_firewalld());
    }
    // That is told of bridges when they are made.
    let mut chains = nft::dropping(&mut open).ok()?;
    chains.retain(|chain| !chain.is_firewalld());
    explain_firewall(&chains)
}

fn silent_firewalld() -> Finding {
    Finding::warning("firewall", "firewalld has rules, and does not answer on the system's bus")
        .because("it refuses what comes by links it was not told about: containers may reach neither the world nor the name server")
        .fix("systemctl restart firewalld; or firewall-cmd --permanent --zone=trusted --add-interface=dhow0 and firewall-cmd --reload, the same for br-ID of other networks")
}

fn explain_firewall(chains: &[Dropping]) -> Option<Finding> {
    // Docker leaves others a chain of their own: root's networks pass by rules there while they are.
    let is_opened = |chain: &Dropping| chain.place == Place::Forward && chain.has_docker_user;
    let first = |place| chains.iter().find(|chain| chain.place == place && !is_opened(chain));
    let (forward, input) = (first(Place::Forward), first(Place::Input));
    if forward.is_none() && input.is_none() {
        return None;
    }
    let names: Vec<_> = forward.iter().chain(&input).map(ToString::to_string).collect();
    let mut fixes = Vec::new();
    match forward {
        Some(chain) if chain.is_iptables() => fixes.push(
            "iptables -I FORWARD -i dhow0 -j ACCEPT; iptables -I FORWARD -o dhow0 -j ACCEPT"
                .to_owned(),
        ),
        Some(chain) => fixes.push(format!(
            "nft insert rule {} {} {} iifname dhow0 accept; nft insert rule {} {} {} oifname dhow0 accept",
            chain.family(), chain.table, chain.name, chain.family(), chain.table, chain.name
        )),
        None => {}
    }
    match input {
        Some(chain) if chain.is_iptables() => {
            fixes.push("iptables -I INPUT -i dhow0 -j ACCEPT".to_owned());
        }
        Some(chain) => fixes.push(format!(
            "nft insert rule {} {} {} iifname dhow0 accept",
            chain.family(),
            chain.table,
            chain.name
        )),
        None => {}
    }
    let why = "what such a chain does not accept by a rule of its own is dropped, whatever dhow's \
               table says: containers may not reach the world (forward), nor the name server and \
               the host (input)";
    let fix = format!("{}; the same for br-ID of other networks", fixes.join("; "));
    Some(
        Finding::warning("firewall", format!("drops by default: {}", names.join(" and ")))
            .because(why)
            .fix(fix),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_firewall_is_told_with_the_rules_that_open_it() {
        let chain = |table: &str, name: &str, place, family, has_docker_user| Dropping {
            table: table.into(),
            name: name.into(),
            family,
            place,
            has_docker_user,
        };
        assert_eq!(explain_firewall(&[]), None);
        assert_eq!(explain_firewall(&[chain("filter", "FORWARD", Place::Forward, 2, true)]), None);
        let ufw = [chain("filter", "FORWARD", Place::Forward, 2, false)];
        let told = explain_firewall(&ufw).expect("told");
        assert_eq!(told.found, "drops by default: ip filter FORWARD");
        assert!(told.fix.contains("iptables -I FORWARD -i dhow0"), "{}", told.fix);
        let own = [chain("fw", "in", Place::Input, 1, false)];
        let told = explain_firewall(&own).expect("told");
        assert!(told.fix.starts_with("nft insert rule inet fw in iifname dhow0 accept"));
    }
}
