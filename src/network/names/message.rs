//! Messages of DNS as they are on the wire (RFC 1035, 4): reading a question, writing an answer.
//!
//! **Invariant:** nothing here makes a system call, and no length in a message is believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A message's header.
const HEADER: usize = 12;
/// What a datagram holds unless the asker says otherwise (RFC 1035, 2.3.4).
const DATAGRAM: usize = 512;
/// A name's bytes at most (RFC 1035, 2.3.4).
const NAME_MAX: usize = 255;
/// Seconds that an answer about a container is good for: addresses come and go with containers.
const TTL: u32 = 5;

pub(crate) const A: u16 = 1;
pub(crate) const PTR: u16 = 12;
pub(crate) const AAAA: u16 = 28;
const ANY: u16 = 255;
const OPT: u16 = 41;
const INTERNET: u16 = 1;

/// How an answer ends (RFC 1035, 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    Fine = 0,
    Malformed = 1,
    Failed = 2,
    NoSuchName = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// What somebody asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Question {
    /// In small letters, without the last dot; what is neither a letter, digit nor the like is
    /// `\DDD` (RFC 1035, 5.1), so that a dot parts labels and nothing else.
    pub(crate) name: String,
    pub(crate) kind: u16,
    pub(crate) is_internet: bool,
    /// Where the question ends in its message.
    pub(super) end: usize,
    /// The longest datagram that the asker takes (EDNS, RFC 6891).
    pub(crate) datagram_max: usize,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Address(IpAddr),
    Name(String),
}

/// Reads a query of one question. `Err` is how a query is answered that is none; `Ok(None)` is
/// nothing that may be answered.
pub(crate) fn parse(message: &[u8]) -> Result<Option<Question>, Code> {
    let Some(header) = message.get(..HEADER) else { return Ok(None) };
    if header[2] & 0x80 != 0 {
        return Ok(None);
    }
    if header[2] & 0x78 != 0 {
        return Err(Code::NotImplemented);
    }
    if number(message, 4) != Some(1) {
        return Err(Code::Malformed);
    }
    question(message).map(Some).ok_or(Code::Malformed)
}

fn question(message: &[u8]) -> Option<Question> {
    let (name, at) = name(message)?;
    let kind = number(message, at)?;
    let class = number(message, at + 2)?;
    let end = at + 4;
    let datagram_max = datagram_max(message, end).unwrap_or(DATAGRAM).max(DATAGRAM);
    Some(Question { name, kind, is_internet: class == INTERNET, end, datagram_max })
}

/// The name behind the header, and where it ends. There is nothing before it that could be
/// pointed at.
fn name(message: &[u8]) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((text, at));
        }
        let label = message.get(at..at + length).filter(|_| length < 64)?;
        at += length;
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            match byte {
                b'.' | b'\\' | 0..=b' ' | 0x7f.. => text.push_str(&format!("\\{byte:03}")),
                _ => text.push(char::from(byte.to_ascii_lowercase())),
            }
        }
        if at - HEADER > NAME_MAX {
            return None;
        }
    }
}

/// The size in an EDNS record, which is all that a query has behind its question.
fn datagram_max(message: &[u8], end: usize) -> Option<usize> {
    let is_root = *message.get(end)? == 0;
    let size = usize::from(number(message, end + 3)?);
    (is_root && number(message, end + 1)? == OPT).then_some(size)
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

/// A message's number, by which its asker knows the answer.
pub(crate) fn id(message: &[u8]) -> u16 {
    number(message, 0).unwrap_or(0)
}

/// The message with another number.
pub(crate) fn renumbered(message: &[u8], id: u16) -> Vec<u8> {
    let mut copy = message.to_vec();
    if let Some(place) = copy.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
    copy
}

/// How a message that answers ends; `None` for one that does not answer `query` at all.
pub(crate) fn code_of(answer: &[u8], query: &[u8]) -> Option<u8> {
    let flags = answer.get(..HEADER)?;
    if flags[2] & 0x80 == 0 || id(answer) != id(query) {
        return None;
    }
    // Some servers leave the question out of a refusal.
    if number(answer, 4)? > 0 {
        let (asked, told) = (question(query)?, question(answer)?);
        if (asked.name, asked.kind) != (told.name, told.kind) {
            return None;
        }
    }
    Some(flags[3] & 0x0f)
}

/// The addresses that an answer tells of, and for how many seconds each.
pub(crate) fn addresses(answer: &[u8]) -> Vec<(IpAddr, u32)> {
    let mut found = Vec::new();
    let _ = read_addresses(answer, &mut found);
    found
}

/// `None` at the first thing that is not as it should be.
fn read_addresses(answer: &[u8], found: &mut Vec<(IpAddr, u32)>) -> Option<()> {
    let mut at = HEADER;
    for _ in 0..number(answer, 4)? {
        at = after_name(answer, at)? + 4;
    }
    for _ in 0..number(answer, 6)? {
        at = after_name(answer, at)?;
        let (kind, class) = (number(answer, at)?, number(answer, at + 2)?);
        let seconds = u32::from_be_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?);
        let length = usize::from(number(answer, at + 8)?);
        let data = answer.get(at + 10..at + 10 + length)?;
        at += 10 + length;
        let address = match (kind, class) {
            (A, INTERNET) => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
            (AAAA, INTERNET) => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
            _ => None,
        };
        found.extend(address.map(|address| (address, seconds)));
    }
    Some(())
}

/// Where the name at `at` ends, which may be a pointer to another (RFC 1035, 4.1.4).
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

/// An answer of ours: what the question's name stands for, as far as its kind was asked for.
pub(crate) fn answer(query: &[u8], question: &Question, records: &[Record]) -> Vec<u8> {
    let mut message = begin(query, Some(question), Code::Fine);
    let mut count = 0_u16;
    for record in records {
        let (kind, data) = match record {
            Record::Address(IpAddr::V4(v4)) => (A, v4.octets().to_vec()),
            Record::Address(IpAddr::V6(v6)) => (AAAA, v6.octets().to_vec()),
            Record::Name(name) => (PTR, labels(name)),
        };
        if question.kind != kind && question.kind != ANY {
            continue;
        }
        // The name is the question's.
        message.extend([0xc0, 12]);
        message.extend(kind.to_be_bytes());
        message.extend(INTERNET.to_be_bytes());
        message.extend(TTL.to_be_bytes());
        message.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        message.extend(data);
        count += 1;
    }
    message[6..8].copy_from_slice(&count.to_be_bytes());
    message
}

/// An answer that is nothing but its code.
pub(crate) fn verdict(query: &[u8], question: Option<&Question>, code: Code) -> Vec<u8> {
    begin(query, question, code)
}

/// As much of an answer as fits into a datagram: without its records, and said to be so. Who
/// wants them asks by TCP.
pub(crate) fn fitting(answer: Vec<u8>, question: &Question) -> Vec<u8> {
    if answer.len() <= question.datagram_max {
        return answer;
    }
    let mut short = answer.get(..question.end).unwrap_or_default().to_vec();
    if let Some(header) = short.get_mut(..HEADER) {
        header[2] |= 0x02;
        header[6..].fill(0);
    }
    short
}

fn begin(query: &[u8], question: Option<&Question>, code: Code) -> Vec<u8> {
    let mut message = query.get(..HEADER).unwrap_or(&[0; HEADER]).to_vec();
    // A response, of authority, to a recursive query or not; recursion is available.
    message[2] = 0x84 | message[2] & 0x79;
    message[3] = 0x80 | code as u8;
    message[4..].fill(0);
    if let Some(question) = question {
        message[5] = 1;
        message.extend(query.get(HEADER..question.end).unwrap_or_default());
    }
    message
}

/// A name as labels, each behind its length.
fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label);
    }
    bytes.push(0);
    bytes
}

/// The address whose name is asked for in the reverse tree (RFC 1035, 3.5; RFC 3596, 2.5).
pub(crate) fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut bytes = [0; 4];
        let mut parts = digits.split('.');
        for byte in bytes.iter_mut().rev() {
            *byte = parts.next()?.parse().ok()?;
        }
        return parts.next().is_none().then(|| Ipv4Addr::from(bytes).into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0_u128;
    let mut count = 0;
    for digit in digits.split('.').rev() {
        let digit = u8::from_str_radix(digit, 16).ok().filter(|_| digit.len() == 1)?;
        bits = bits << 4 | u128::from(digit);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
        message.extend(labels(name));
        message.extend([kind.to_be_bytes(), [0, 1]].concat());
        if let Some(size) = edns {
            message.extend([0, 0, 41]);
            message.extend(size.to_be_bytes());
            message.extend([0; 6]);
        }
        message
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let asked = query("Web.Lan", A, None);
        let question = parse(&asked).expect("well-formed").expect("a query");
        assert_eq!((&*question.name, question.kind, question.datagram_max), ("web.lan", A, 512));
        let records = [Ipv4Addr::new(10, 0, 0, 2).into(), Ipv6Addr::LOCALHOST.into()];
        let told = answer(&asked, &question, &records.map(Record::Address));
        assert_eq!(code_of(&told, &asked), Some(0));
        assert_eq!(told[6..8], [0, 1], "one of the family that was asked for");
        assert!(told.ends_with(&[0, 4, 10, 0, 0, 2]));
        let mail = Question { kind: 15, ..question };
        let none = answer(&asked, &mail, &records.map(Record::Address));
        assert_eq!(none[3] & 15, 0, "there is such a name, without such a record");
        assert_eq!(none[6..8], [0, 0]);
    }

    #[test]
    fn a_dot_within_a_label_parts_nothing() {
        let mut asked = query("data-b.org", A, None);
        asked[HEADER + 5] = b'.';
        asked[HEADER + 2] = 0x1b;
        let question = parse(&asked).expect("well-formed").expect("a query");
        assert_eq!(question.name, "d\\027ta\\046b.org");
        let told = answer(&asked, &question, &[Record::Address([10, 0, 0, 2].into())]);
        assert_eq!(code_of(&told, &asked), Some(0));
    }

    #[test]
    fn addresses_are_read_from_answers() {
        let asked = query("web.lan", A, None);
        let question = parse(&asked).expect("well-formed").expect("a query");
        let records =
            [Record::Address([10, 0, 0, 2].into()), Record::Address([10, 0, 0, 3].into())];
        let told = answer(&asked, &question, &records);
        assert_eq!(addresses(&told), [([10, 0, 0, 2].into(), 5), ([10, 0, 0, 3].into(), 5)]);
        for end in 0..told.len() {
            assert!(addresses(&told[..end]).len() < 2, "{end}");
        }
        assert_eq!(addresses(&asked), []);
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said_to_be() {
        let records: Vec<_> =
            (0..60).map(|n| Record::Address(Ipv4Addr::new(10, 0, 0, n).into())).collect();
        for (edns, fits) in [(None, false), (Some(4096), true), (Some(100), false)] {
            let asked = query("many", A, edns);
            let question = parse(&asked).expect("well-formed").expect("a query");
            let told = fitting(answer(&asked, &question, &records), &question);
            assert_eq!(told[2] & 2 == 0, fits, "{edns:?}");
            assert_eq!(told.len() > 512, fits, "{edns:?}");
        }
    }

    #[test]
    fn what_is_no_query_is_refused_or_ignored() {
        let asked = query("web", A, None);
        for end in 0..asked.len() {
            match parse(&asked[..end]) {
                Ok(None) => assert!(end < HEADER),
                Err(code) => assert_eq!(code, Code::Malformed),
                Ok(Some(question)) => panic!("{end}: {question:?}"),
            }
        }
        let mut response = asked.clone();
        response[2] |= 0x80;
        assert_eq!(parse(&response), Ok(None));
        let mut update = asked.clone();
        update[2] |= 5 << 3;
        assert_eq!(parse(&update), Err(Code::NotImplemented));
        let mut pointer = asked.clone();
        pointer[12] = 0xc0;
        assert_eq!(parse(&pointer), Err(Code::Malformed));
        let mut other = renumbered(&asked, 7);
        other[2] |= 0x80;
        assert_eq!(code_of(&other, &asked), None);
        let mut elsewhere = query("mail", A, None);
        elsewhere[2] |= 0x80;
        assert_eq!(code_of(&elsewhere, &asked), None);
    }

    #[test]
    fn the_reverse_tree_has_addresses_backwards() {
        let v4 = |text| reverse(text).map(|ip| ip.to_string());
        assert_eq!(v4("2.1.89.10.in-addr.arpa").as_deref(), Some("10.89.1.2"));
        assert_eq!(v4("1.89.10.in-addr.arpa"), None);
        assert_eq!(v4("x.2.1.89.10.in-addr.arpa"), None);
        let name = format!("2.{}d.f.ip6.arpa", "0.".repeat(29));
        assert_eq!(reverse(&name), "fd00::2".parse().ok());
        assert_eq!(reverse("web"), None);
    }
}
