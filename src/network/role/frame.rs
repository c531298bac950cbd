//! Frames as they pass the cable between the kernel and the role: reading the first packet of a
//! connection, completing it, and answering it.
//!
//! **Invariant:** nothing here makes a system call, and no length in a packet is believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const ETHERNET: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
/// As much of a packet as an ICMP error quotes of it: within the 576 bytes that every host takes
/// (RFC 1812, 4.3.2.3).
const QUOTE_MAX: usize = 512;

/// The first packet of something new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Opening {
    Tcp(Flow),
    Udp(Flow),
    Echo { from: IpAddr, to: IpAddr },
}

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    pub client: SocketAddr,
    pub server: SocketAddr,
}

/// One IP packet within its frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    frame: &'a [u8],
    pub source: IpAddr,
    pub target: IpAddr,
    protocol: u8,
    /// Where the transport's header begins in the frame.
    at: usize,
    end: usize,
}

/// Why a peer cannot be reached, as ICMP says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreachable {
    Network,
    Host,
    Port,
    Prohibited,
}

impl<'a> Packet<'a> {
    /// Reads a frame; `None` for what is no whole first fragment of IPv4 or IPv6.
    pub(super) fn parse(frame: &'a [u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET..)?;
        match u16::from_be_bytes([frame[12], frame[13]]) {
            0x0800 => {
                let header = usize::from(ip.first()? & 15) * 4;
                let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
                let fragment = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x3fff;
                if ip[0] >> 4 != 4 || header < 20 || total < header || total > ip.len() {
                    return None;
                }
                let address = |at: usize| {
                    Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?))
                };
                (fragment == 0).then_some(Self {
                    frame,
                    source: address(12)?.into(),
                    target: address(16)?.into(),
                    protocol: ip[9],
                    at: ETHERNET + header,
                    end: ETHERNET + total,
                })
            }
            0x86dd => {
                let length = usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]));
                let end = ETHERNET + 40 + length;
                if ip[0] >> 4 != 6 || end > frame.len() {
                    return None;
                }
                let address = |at: usize| {
                    Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?))
                };
                Some(Self {
                    frame,
                    source: address(8)?.into(),
                    target: address(24)?.into(),
                    // Extension headers: nothing that opens a connection has any.
                    protocol: ip[6],
                    at: ETHERNET + 40,
                    end,
                })
            }
            _ => None,
        }
    }

    /// What begins with this packet, if anything does.
    pub(super) fn opening(&self) -> Option<Opening> {
        let transport = self.transport();
        let port =
            |at: usize| Some(u16::from_be_bytes([*transport.get(at)?, *transport.get(at + 1)?]));
        let flow = || {
            Some(Flow {
                client: SocketAddr::new(self.source, port(0)?),
                server: SocketAddr::new(self.target, port(2)?),
            })
        };
        match self.protocol {
            TCP if transport.len() >= 20 && transport[13] & 0x17 == 0x02 => {
                flow().map(Opening::Tcp)
            }
            UDP if transport.len() >= 8 => flow().map(Opening::Udp),
            ICMP | ICMP6 if transport.len() >= 8 => {
                let request = if self.protocol == ICMP { 8 } else { 128 };
                (transport[0] == request)
                    .then_some(Opening::Echo { from: self.source, to: self.target })
            }
            _ => None,
        }
    }

    /// The transport's header and what it carries.
    pub(super) fn transport(&self) -> &'a [u8] {
        self.frame.get(self.at..self.end).unwrap_or_default()
    }

    /// What a UDP packet carries.
    pub(super) fn datagram(&self) -> &'a [u8] {
        self.transport().get(8..).unwrap_or_default()
    }

    /// The frame with the checksum that a link of software left to hardware which never comes.
    pub(super) fn completed(&self) -> Vec<u8> {
        let mut frame = self.frame[..self.end].to_vec();
        let place = match self.protocol {
            TCP => 16,
            UDP => 6,
            _ => return frame,
        };
        let transport = &mut frame[self.at..];
        seal(transport, place, self.source, self.target, self.protocol);
        frame
    }

    /// The refusal of a connection, as the server would have sent it (RFC 9293, 3.5.2).
    pub(super) fn reset(&self) -> Vec<u8> {
        let asked = self.transport();
        let mut answer = vec![0; 20];
        answer[..2].copy_from_slice(&asked[2..4]);
        answer[2..4].copy_from_slice(&asked[..2]);
        let sequence = u32::from_be_bytes([asked[4], asked[5], asked[6], asked[7]]);
        answer[8..12].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
        answer[12] = 5 << 4;
        answer[13] = 0x14;
        seal(&mut answer, 16, self.target, self.source, TCP);
        self.reply(TCP, self.target, &answer)
    }

    /// An ICMP error about this packet, from the host that it was meant for.
    pub(super) fn unreachable(&self, why: Unreachable) -> Vec<u8> {
        let quote = &self.frame[ETHERNET..self.end.min(ETHERNET + QUOTE_MAX)];
        let (protocol, kind, code) = match (self.source, why) {
            (IpAddr::V4(_), Unreachable::Network) => (ICMP, 3, 0),
            (IpAddr::V4(_), Unreachable::Host) => (ICMP, 3, 1),
            (IpAddr::V4(_), Unreachable::Port) => (ICMP, 3, 3),
            (IpAddr::V4(_), Unreachable::Prohibited) => (ICMP, 3, 13),
            (IpAddr::V6(_), Unreachable::Network) => (ICMP6, 1, 0),
            (IpAddr::V6(_), Unreachable::Host) => (ICMP6, 1, 3),
            (IpAddr::V6(_), Unreachable::Port) => (ICMP6, 1, 4),
            (IpAddr::V6(_), Unreachable::Prohibited) => (ICMP6, 1, 1),
        };
        let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
        message.extend(quote);
        self.seal_icmp(&mut message);
        self.reply(protocol, self.target, &message)
    }

    /// What a ping socket received, as the answer to this echo request or a later one of the
    /// same asker: the identifier is the asker's again.
    pub(super) fn echo_reply(&self, received: &[u8]) -> Vec<u8> {
        let mut message = self.transport().get(..6).unwrap_or(&[0; 6]).to_vec();
        message[0] = if self.protocol == ICMP { 0 } else { 129 };
        message.extend(received.get(6..).unwrap_or_default());
        self.seal_icmp(&mut message);
        self.reply(self.protocol, self.target, &message)
    }

    fn seal_icmp(&self, message: &mut [u8]) {
        match self.source {
            IpAddr::V4(_) => {
                message[2..4].fill(0);
                let sum = fold(sum(message, 0));
                message[2..4].copy_from_slice(&sum.to_be_bytes());
            }
            IpAddr::V6(_) => seal(message, 2, self.target, self.source, ICMP6),
        }
    }

    /// A frame from `source` back to whom this packet came from.
    fn reply(&self, protocol: u8, source: IpAddr, transport: &[u8]) -> Vec<u8> {
        // The near end of the cable takes what bears its own address, as this frame did.
        let mut frame = self.frame[..ETHERNET].to_vec();
        let length = u16::try_from(transport.len()).unwrap_or(0);
        match (source, self.source) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let mut header = [0; 20];
                header[0] = 0x45;
                header[2..4].copy_from_slice(&(length + 20).to_be_bytes());
                header[8] = 64;
                header[9] = protocol;
                header[12..16].copy_from_slice(&source.octets());
                header[16..20].copy_from_slice(&target.octets());
                let sum = fold(sum(&header, 0));
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let mut header = [0; 40];
                header[0] = 0x60;
                header[4..6].copy_from_slice(&length.to_be_bytes());
                header[6] = protocol;
                header[7] = 64;
                header[8..24].copy_from_slice(&source.octets());
                header[24..40].copy_from_slice(&target.octets());
                frame.extend(header);
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return Vec::new(),
        }
        frame.extend(transport);
        frame
    }

    /// The beginning of the frame: enough for an error about it later.
    pub(super) fn head(&self) -> &'a [u8] {
        &self.frame[..self.end.min(ETHERNET + QUOTE_MAX)]
    }
}

/// Writes the checksum at `place` over the pseudo header and the transport's bytes (RFC 9293,
/// 3.1; RFC 768; RFC 8200, 8.1).
fn seal(transport: &mut [u8], place: usize, source: IpAddr, target: IpAddr, protocol: u8) {
    transport[place..place + 2].fill(0);
    let length = u32::try_from(transport.len()).unwrap_or(0);
    let mut total = u32::from(protocol) + (length >> 16) + (length & 0xffff);
    for address in [source, target] {
        total = match address {
            IpAddr::V4(v4) => sum(&v4.octets(), total),
            IpAddr::V6(v6) => sum(&v6.octets(), total),
        };
    }
    let mut checksum = fold(sum(transport, total));
    if checksum == 0 && protocol == UDP {
        checksum = 0xffff;
    }
    transport[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn sum(bytes: &[u8], start: u32) -> u32 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    words.fold(start, u32::wrapping_add)
}

fn fold(mut total: u32) -> u16 {
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    !u16::try_from(total).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u16, header: &[u8], transport: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend(kind.to_be_bytes());
        frame.extend(header);
        frame.extend(transport);
        frame
    }

    fn v4(protocol: u8, transport: &[u8]) -> Vec<u8> {
        let total = u16::try_from(20 + transport.len()).expect("short");
        let mut header = vec![0x45, 0];
        header.extend(total.to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 2, 192, 0, 2, 1]);
        frame(0x0800, &header, transport)
    }

    fn v6(protocol: u8, transport: &[u8]) -> Vec<u8> {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(u16::try_from(transport.len()).expect("short").to_be_bytes());
        header.extend([protocol, 64]);
        header.extend([0xfd; 16]);
        header.extend([0xfc; 16]);
        frame(0x86dd, &header, transport)
    }

    fn syn() -> Vec<u8> {
        let mut syn = vec![0x80, 0, 0, 80, 0, 0, 0, 9];
        syn.extend([0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0xab, 0xcd, 0, 0]);
        syn
    }

    /// The sum over the pseudo header and a sealed transport is all ones.
    fn is_sealed(packet: &Packet<'_>) -> bool {
        let transport = packet.transport();
        let length = u32::try_from(transport.len()).expect("short");
        let mut total = u32::from(packet.protocol) + length;
        for address in [packet.source, packet.target] {
            total = match address {
                IpAddr::V4(v4) => sum(&v4.octets(), total),
                IpAddr::V6(v6) => sum(&v6.octets(), total),
            };
        }
        fold(sum(transport, total)) == 0
    }

    #[test]
    fn a_connection_is_recognised_completed_and_refused() {
        for frame in [v4(TCP, &syn()), v6(TCP, &syn())] {
            let packet = Packet::parse(&frame).expect("a packet");
            let Some(Opening::Tcp(flow)) = packet.opening() else { panic!("{packet:?}") };
            assert_eq!((flow.client.port(), flow.server.port()), (0x8000, 80));
            let completed = packet.completed();
            assert!(is_sealed(&Packet::parse(&completed).expect("a packet")));
            let reset = packet.reset();
            let reset = Packet::parse(&reset).expect("a packet");
            assert!(is_sealed(&reset));
            assert_eq!((reset.source, reset.target), (packet.target, packet.source));
            assert_eq!(reset.transport()[8..14], [0, 0, 0, 10, 5 << 4, 0x14]);
            assert_eq!(reset.opening(), None, "a reset opens nothing");
        }
    }

    #[test]
    fn errors_quote_the_packet_and_echoes_come_back() {
        let datagram = [0x12, 0x34, 0, 53, 0, 10, 0, 0, b'h', b'i'];
        for (frame, echo) in [(v4(UDP, &datagram), 8), (v6(UDP, &datagram), 128)] {
            let packet = Packet::parse(&frame).expect("a packet");
            assert!(matches!(packet.opening(), Some(Opening::Udp(_))));
            assert_eq!(packet.datagram(), b"hi");
            let error = packet.unreachable(Unreachable::Port);
            let error = Packet::parse(&error).expect("a packet");
            assert_eq!(&error.transport()[8..], &frame[ETHERNET..]);
            let protocol = if echo == 8 { ICMP } else { ICMP6 };
            assert_eq!(error.protocol, protocol);
            let ping = [echo, 0, 0, 0, 0, 7, 0, 1, b'x'];
            let ping = if echo == 8 { v4(ICMP, &ping) } else { v6(ICMP6, &ping) };
            let ping = Packet::parse(&ping).expect("a packet");
            assert!(matches!(ping.opening(), Some(Opening::Echo { .. })));
            let pong = ping.echo_reply(&[0, 0, 0, 0, 0x55, 0x55, 0, 2, b'x']);
            let pong = Packet::parse(&pong).expect("a packet");
            assert_eq!(pong.transport()[0], if echo == 8 { 0 } else { 129 });
            assert_eq!(pong.transport()[4..], [0, 7, 0, 2, b'x']);
        }
    }

    #[test]
    fn nothing_in_a_packet_is_believed() {
        let whole = v4(TCP, &syn());
        for length in 0..whole.len() {
            let _ = Packet::parse(&whole[..length]).and_then(|packet| packet.opening());
        }
        let mut fragment = v4(UDP, &[0; 8]);
        fragment[ETHERNET + 6] = 0x20;
        assert!(Packet::parse(&fragment).is_none(), "a fragment");
        let mut long = v6(UDP, &[0; 8]);
        long[ETHERNET + 4] = 0xff;
        assert!(Packet::parse(&long).is_none(), "longer than the frame");
        let short = v4(TCP, &[0; 8]);
        assert_eq!(Packet::parse(&short).expect("ip").opening(), None);
    }
}
