//! UDP datagrams together with the local address they came to, so that an answer can leave from the same one.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd},
};

/// Room for one control message with a `struct in6_pktinfo` (the larger one), aligned as `struct cmsghdr` wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// A received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    pub length: usize,
    pub peer: SocketAddr,
    /// The address of this host that it was sent to; None when the socket does not report it.
    pub local: Option<IpAddr>,
}

/// Makes a socket report local addresses.
///
/// # Errors
/// As setsockopt(2).
pub fn report_local(fd: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    let (level, option) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    let on: libc::c_int = 1;
    // SAFETY: the pointer and length describe a live integer that the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            socklen(size_of_val(&on)),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Receives one datagram, without waiting.
///
/// # Errors
/// As recvmsg(2); `EAGAIN` when there is none.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Datagram> {
    // SAFETY: all-zero bytes are a valid sockaddr_storage and msghdr.
    let (mut name, mut message): (libc::sockaddr_storage, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut control = Control([0; 64]);
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = socklen(size_of_val(&name));
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: every pointer in the header is to a live buffer of the length beside it, and they outlive the call.
    let received = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    Ok(Datagram {
        length,
        peer: socket_address(&name)?,
        local: local_address(&message),
    })
}

/// Sends one datagram from a certain local address, without waiting.
///
/// # Errors
/// As sendmsg(2).
pub fn send(
    fd: BorrowedFd<'_>,
    data: &[u8],
    peer: SocketAddr,
    local: Option<IpAddr>,
) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut control = Control([0; 64]);
    let mut vector = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let (mut v4, mut v6);
    match peer {
        SocketAddr::V4(to) => {
            v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: to.port().to_be(),
                sin_addr: in_addr(*to.ip()),
                sin_zero: [0; 8],
            };
            message.msg_name = (&raw mut v4).cast();
            message.msg_namelen = socklen(size_of_val(&v4));
        }
        SocketAddr::V6(to) => {
            v6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: to.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: in6_addr(*to.ip()),
                sin6_scope_id: to.scope_id(),
            };
            message.msg_name = (&raw mut v6).cast();
            message.msg_namelen = socklen(size_of_val(&v6));
        }
    }
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    match local {
        Some(IpAddr::V4(address)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: in_addr(address),
                ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
            };
            put_control(
                &mut message,
                &mut control,
                libc::IPPROTO_IP,
                libc::IP_PKTINFO,
                info,
            );
        }
        Some(IpAddr::V6(address)) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: in6_addr(address),
                ipi6_ifindex: 0,
            };
            put_control(
                &mut message,
                &mut control,
                libc::IPPROTO_IPV6,
                libc::IPV6_PKTINFO,
                info,
            );
        }
        None => {}
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: every pointer in the header is to a live buffer of the length beside it; the kernel only reads them.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Writes the only control message of `message` into `control`.
fn put_control<T: Copy>(
    message: &mut libc::msghdr,
    control: &mut Control,
    level: i32,
    kind: i32,
    info: T,
) {
    let size = u32::try_from(size_of::<T>()).unwrap_or_default();
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE only computes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as _;
    // SAFETY: the buffer is aligned for cmsghdr and holds 64 bytes, more than CMSG_SPACE of either pktinfo (40 at most), so
    // the first header and its data lie inside.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(size) as _;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(info);
    }
}

fn local_address(message: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel filled the control buffer and its length; CMSG_FIRSTHDR is null unless a whole header fits.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: not null, so a whole header is there; the kernel wrote the data that its type says.
        let found = unsafe {
            let data = libc::CMSG_DATA(next);
            match ((*next).cmsg_level, (*next).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into())
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into())
                }
                _ => None,
            }
        };
        if found.is_some() {
            return found;
        }
        // SAFETY: `next` is a header inside the buffer of `message`.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    None
}

fn socket_address(name: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in, and the storage is large and aligned enough for each.
            let v4 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Ok(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Ok(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
    }
}

fn in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr {
        s_addr: u32::from_ne_bytes(ip.octets()),
    }
}

fn in6_addr(ip: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr {
        s6_addr: ip.octets(),
    }
}

fn socklen(size: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(size).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsFd};

    use super::*;

    #[test]
    fn answers_leave_from_where_the_question_came_to() {
        for (any, here, ipv6) in [("0.0.0.0:0", "127.0.0.77", false), ("[::]:0", "::1", true)] {
            let server = UdpSocket::bind(any).expect("server");
            report_local(server.as_fd(), ipv6).expect("option");
            let port = server.local_addr().expect("address").port();
            let here: IpAddr = here.parse().expect("address");
            let client = UdpSocket::bind(any).expect("client");
            client.connect((here, port)).expect("connect");
            client.send(b"question").expect("send");
            let mut buffer = [0; 100];
            let got = receive(server.as_fd(), &mut buffer).expect("receive");
            assert_eq!(&buffer[..got.length], b"question");
            assert_eq!(got.local, Some(here));
            send(server.as_fd(), b"answer", got.peer, got.local).expect("answer");
            let length = client.recv(&mut buffer).expect("answer arrives");
            assert_eq!(&buffer[..length], b"answer");
            let empty = receive(server.as_fd(), &mut buffer).expect_err("nothing more");
            assert_eq!(empty.raw_os_error(), Some(libc::EAGAIN));
        }
    }
}
