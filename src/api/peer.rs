//! Who is on the other side of a connection: the user on this machine, as the kernel knows it, or another machine.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use rustix::net::netlink::SOCK_DIAG;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Who is on the other side.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Peer {
    /// A user of this machine.
    User(u32),
    /// This machine, where the kernel does not say for whom.
    Local,
    /// Another machine; of IPv6 the network, 64 bits of its address.
    Remote(IpAddr),
}

impl Peer {
    /// `local` is the address at this side of the connection.
    pub fn of_tcp(remote: SocketAddr, local: SocketAddr) -> Self {
        let address = remote.ip().to_canonical();
        if !address.is_loopback() {
            return Self::Remote(match address {
                IpAddr::V4(address) => address.into(),
                IpAddr::V6(address) => {
                    Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
                }
            });
        }
        match owner_of(remote, local) {
            Ok(Some(uid)) => Self::User(uid),
            Ok(None) => Self::Local,
            Err(error) => {
                tracing::debug!(%error, "The kernel does not say whose a connection is");
                Self::Local
            }
        }
    }

    pub fn of_unix(uid: u32) -> Self {
        Self::User(uid)
    }

    /// The user, where it is known.
    pub fn uid(self) -> Option<u32> {
        match self {
            Peer::User(uid) => Some(uid),
            Peer::Local | Peer::Remote(_) => None,
        }
    }
}

/// Lengths and offsets of `linux/netlink.h` and `linux/inet_diag.h`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const STATE_AT: usize = HEADER + 1;
const UID_AT: usize = HEADER + 64;
const INODE_AT: usize = HEADER + 68;
const ANSWER: usize = HEADER + 72;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const TCP_ESTABLISHED: u8 = 1;

/// The user who owns the socket at the other side of a connection within this machine; none where that is closed already: a
/// socket without an owner counts as root's.
fn owner_of(remote: SocketAddr, local: SocketAddr) -> io::Result<Option<u32>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(SOCK_DIAG),
    )?;
    rustix::net::send(&socket, &request(remote, local), SendFlags::empty())?;
    let mut answer = [0; 512];
    // The kernel has answered by the time that it has taken the request.
    let (len, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
    parse(&answer[..len])
}

/// Asks for the socket whose own address is `remote`, and whose other side is `local`.
fn request(remote: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let family = match remote {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    // Any state.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(remote.port().to_be_bytes());
    bytes.extend(local.port().to_be_bytes());
    for address in [remote.ip(), local.ip()] {
        let mut words = [0; 16];
        match address {
            IpAddr::V4(address) => words[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => words = address.octets(),
        }
        bytes.extend(words);
    }
    // Any interface, and no cookie.
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([0xff; 8]);
    bytes
}

fn parse(answer: &[u8]) -> io::Result<Option<u32>> {
    let number = |at: usize| -> Option<u32> {
        let bytes = answer.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let odd = || io::Error::other("an odd answer");
    let kind = answer.get(4..6).ok_or_else(odd)?;
    let kind = u16::from_ne_bytes(kind.try_into().map_err(|_| odd())?);
    if kind == NLMSG_ERROR {
        let code = number(HEADER).ok_or_else(odd)? as i32;
        return match -code {
            libc::ENOENT => Ok(None),
            code => Err(io::Error::from_raw_os_error(code)),
        };
    }
    if kind != SOCK_DIAG_BY_FAMILY || answer.len() < ANSWER {
        return Err(odd());
    }
    let (uid, inode) = (number(UID_AT).ok_or_else(odd)?, number(INODE_AT));
    let is_owned = answer[STATE_AT] == TCP_ESTABLISHED && inode != Some(0);
    Ok(is_owned.then_some(uid))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_other_side_of_a_connection_within_the_machine_is_a_user() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).expect("bound");
            let address = listener.local_addr().expect("an address");
            let connect = || TcpStream::connect(address).expect("connected");
            let client = connect();
            let (server, remote) = listener.accept().expect("accepted");
            let local = server.local_addr().expect("an address");
            // SAFETY: geteuid only returns a number.
            let own = unsafe { libc::geteuid() };
            assert_eq!(Peer::of_tcp(remote, local), Peer::User(own), "{at}");
            drop(client);
            assert_eq!(Peer::of_tcp(remote, local), Peer::Local, "closed, {at}");

            // SAFETY: it changes whom this thread makes sockets as, and nothing else.
            unsafe { libc::setfsuid(65_534) };
            let _client = connect();
            // SAFETY: as above.
            unsafe { libc::setfsuid(own) };
            let (server, remote) = listener.accept().expect("accepted");
            let local = server.local_addr().expect("an address");
            assert_eq!(Peer::of_tcp(remote, local), Peer::User(65_534), "{at}");
        }
    }

    #[test]
    fn other_machines_are_told_apart_by_their_network() {
        let local = "192.0.2.1:80".parse().expect("an address");
        let of = |text: &str| Peer::of_tcp(text.parse().expect("an address"), local);
        assert_eq!(of("198.51.100.7:1"), of("198.51.100.7:2"));
        assert_ne!(of("198.51.100.7:1"), of("198.51.100.8:1"));
        assert_eq!(of("[::ffff:198.51.100.7]:1"), of("198.51.100.7:1"));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:1]:1"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_eq!(of("198.51.100.7:1").uid(), None);
    }

    #[test]
    fn odd_answers_of_the_kernel_are_no_user() {
        assert!(parse(&[]).is_err());
        assert!(parse(&[0; 80]).is_err());
        let mut answer = vec![0; ANSWER];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        answer[STATE_AT] = TCP_ESTABLISHED;
        answer[INODE_AT] = 9;
        assert_eq!(parse(&answer).expect("whole"), Some(0));
        assert!(parse(&answer[..ANSWER - 1]).is_err());
        answer[INODE_AT] = 0;
        assert_eq!(parse(&answer).expect("whole"), None, "nobody has it");
        let mut error = vec![0; HEADER];
        error[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        error.extend((-libc::ENOENT).to_ne_bytes());
        assert_eq!(parse(&error).expect("gone"), None);
    }
}
