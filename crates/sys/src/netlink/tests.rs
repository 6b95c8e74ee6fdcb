use super::*;

const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;

fn link_header(index: u32) -> [u8; 16] {
    let mut header = [0u8; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

#[test]
fn attributes_round_trip() {
    let mut batch = Batch::new();
    batch.message(1, 0, &[0; 16]).u8(1, 7).nest(2, |m| {
        m.string(3, "veth").u32(4, 5);
    });
    let message = Messages(&batch.bytes).next().expect("one message");
    let attributes = message.attributes(16);
    assert_eq!(attributes.find(1), Some(&[7u8][..]));
    let nested = Attributes::nested(attributes.find(2).expect("nested"));
    assert_eq!(nested.find(3).map(text), Some("veth"));
    assert_eq!(nested.find(4).and_then(u32_of), Some(5));
    assert_eq!(batch.bytes.len() % 4, 0);
}

#[test]
fn oversized_attribute_is_refused() {
    let mut batch = Batch::new();
    batch.message(RTM_GETLINK, 0, &[0; 16]).put(1, &[0; 70_000]);
    let mut socket = Socket::open(Protocol::Route).expect("socket");
    assert_eq!(
        socket.request(&mut batch).map_err(|e| e.errno),
        Err(libc::EMSGSIZE)
    );
}

#[test]
fn loopback_is_listed_and_found() {
    let mut socket = Socket::open(Protocol::Route).expect("socket");
    let mut names = Vec::new();
    let mut batch = Batch::new();
    batch.message(RTM_GETLINK, flags::DUMP, &link_header(0));
    socket
        .dump(&mut batch, |m| {
            names.extend(
                m.attributes(16)
                    .find(IFLA_IFNAME)
                    .map(|p| text(p).to_owned()),
            );
        })
        .expect("dump");
    assert!(names.iter().any(|n| n == "lo"), "{names:?}");

    let mut found = String::new();
    let mut batch = Batch::new();
    batch.message(RTM_GETLINK, 0, &link_header(1));
    socket
        .query(&mut batch, |m| {
            text(m.attributes(16).find(IFLA_IFNAME).unwrap_or_default()).clone_into(&mut found);
        })
        .expect("query");
    assert_eq!(found, "lo");
}

#[test]
fn each_message_gets_its_own_answer() {
    let mut socket = Socket::open(Protocol::Route).expect("socket");
    let mut batch = Batch::new();
    // Setting no attribute of lo succeeds; the second link does not exist.
    for index in [1u32, 0x7fff_fff0] {
        batch.message(19, 0, &link_header(index));
    }
    let results = socket.request_each(&mut batch).expect("sent");
    assert!(results[0].is_ok() || results[0].as_ref().is_err_and(|e| e.errno == libc::EPERM));
    assert!(results[1].is_err());
}
