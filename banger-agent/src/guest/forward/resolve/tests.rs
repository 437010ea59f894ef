use hickory_proto::rr::Record;
use tokio::net::TcpListener;

use super::*;

/// What a name server does with a question for addresses of IPv4, and with one for those of IPv6,
/// by UDP. By TCP it answers all.
#[derive(Clone, Copy)]
enum Does {
    Answers,
    HasNone,
    Ignores,
    Fails,
    Truncates,
}

fn answer(question: &Message, does: Does) -> Option<Vec<u8>> {
    let mut message = question.clone().into_response();
    message.metadata.message_type = MessageType::Response;
    let asked = question.queries[0].clone();
    let data = match asked.query_type {
        RecordType::A => RData::A(Ipv4Addr::new(10, 0, 0, 7).into()),
        _ => RData::AAAA(Ipv6Addr::LOCALHOST.into()),
    };
    match does {
        Does::Answers => _ = message.add_answer(Record::from_rdata(asked.name, 60, data)),
        Does::HasNone => {}
        Does::Ignores => return None,
        Does::Fails => message.metadata.response_code = ResponseCode::ServFail,
        Does::Truncates => message.metadata.truncation = true,
    }
    Some(message.to_vec().unwrap())
}

/// A name server on this machine's loopback, for as long as the test runs.
async fn server(ipv4: Does, ipv6: Does) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).await.unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut bytes).await {
            let question = Message::from_vec(&bytes[..count]).unwrap();
            let does = if question.queries[0].query_type == RecordType::A { ipv4 } else { ipv6 };
            if let Some(answer) = answer(&question, does) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut bytes).await.unwrap();
            let answer = answer(&Message::from_vec(&bytes).unwrap(), Does::Answers).unwrap();
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    address
}

async fn found(servers: &[SocketAddr]) -> Result<Vec<String>, String> {
    let names = candidates(&Config::new(), "db.example").unwrap();
    let found = look_up(&names, servers).await.map_err(|error| error.to_string())?;
    Ok(found.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn resolve_needs_only_one_address_family() {
    let both = server(Does::Answers, Does::Answers).await;
    assert_eq!(found(&[both]).await.unwrap(), ["10.0.0.7", "::1"]);
    for other in [Does::Ignores, Does::Fails, Does::HasNone] {
        let one = server(Does::Answers, other).await;
        assert_eq!(found(&[one]).await.unwrap(), ["10.0.0.7"]);
    }
    let one = server(Does::Ignores, Does::Answers).await;
    assert_eq!(found(&[one]).await.unwrap(), ["::1"]);
}

#[tokio::test]
async fn resolve_asks_the_next_server_after_a_failure() {
    let (fails, answers) = (server(Does::Fails, Does::Fails).await, server(Does::Answers, Does::HasNone).await);
    assert_eq!(found(&[fails, answers]).await.unwrap(), ["10.0.0.7"]);
    let error = found(&[fails]).await.unwrap_err();
    assert!(error.contains("127.0.0.1 fails"), "{error}");
    // One that says that there is none is believed.
    let none = server(Does::HasNone, Does::HasNone).await;
    assert!(found(&[none, answers]).await.unwrap_err().contains("not known"));
}

#[tokio::test]
async fn truncated_answer_is_retried_over_tcp() {
    let truncates = server(Does::Truncates, Does::Truncates).await;
    assert_eq!(found(&[truncates]).await.unwrap(), ["10.0.0.7", "::1"]);
}

#[test]
fn hosts_and_resolv_conf_are_parsed() {
    let hosts = "127.0.0.1 localhost\n10.0.0.7\tdb DB.lan # the database\n# 1.1.1.1 no\nfe80::1%2 odd\n::2 db\n";
    assert_eq!(in_hosts(hosts, "Db"), ["10.0.0.7".parse::<IpAddr>().unwrap(), "::2".parse().unwrap()]);
    assert!(in_hosts(hosts, "no").is_empty());
    let names = |configuration: &str, host: &str| -> Vec<String> {
        let names = candidates(&parsed(configuration.as_bytes()), host).unwrap();
        names.iter().map(ToString::to_string).collect()
    };
    let configuration = "# x\nsearch former.example\nsearch\ta.example  b.example\nnameserver 10.0.2.3\n\
                         nameserver x\nnameserver ::1 # y\nnameserver fe80::2%7\nnameserver 10.0.2.4\n";
    let servers = name_servers(&parsed(configuration.as_bytes()));
    assert_eq!(servers, ["10.0.2.3:53", "[::1]:53", "[fe80::2%7]:53"].map(|server| server.parse().unwrap()));
    // The last `search` counts, however its words are apart.
    assert_eq!(names(configuration, "h"), ["h.a.example.", "h.b.example.", "h."]);
    assert_eq!(names(configuration, "h.c"), ["h.c.", "h.c.a.example.", "h.c.b.example."]);
    assert_eq!(names(configuration, "h.c."), ["h.c."]);
    assert_eq!(names("search a.example\noptions ndots:2\n", "h.c"), ["h.c.a.example.", "h.c."]);
    assert_eq!(names("domain a.example\n", "h"), ["h.a.example.", "h."]);
    assert_eq!(names("", "h"), ["h."]);
}

#[test]
fn answer_must_match_the_question() {
    let of = |name: &str, kind| question(&Name::from_ascii(name).unwrap(), kind);
    let asked = of("a.bc.", RecordType::A);
    let bytes = answer(&asked, Does::Answers).unwrap();
    let expected = Answer::Addresses(vec!["10.0.0.7".parse().unwrap()]);
    assert_eq!(answer_in(&bytes, &asked), Some(expected));
    assert_eq!(answer_in(&bytes_of(&asked).unwrap(), &asked), None);
    for (name, kind) in [("a.bd.", RecordType::A), ("a.bc.", RecordType::AAAA)] {
        let mut other = of(name, kind);
        other.metadata.id = asked.metadata.id;
        assert_eq!(answer_in(&bytes, &other), None);
    }
    let mut other = asked.clone();
    other.metadata.id ^= 1;
    assert_eq!(answer_in(&bytes, &other), None);
    for end in 0..bytes.len() {
        assert_eq!(answer_in(&bytes[..end], &asked), None);
    }
}

#[test]
fn invalid_names_are_not_resolved() {
    for name in ["", ".", "a..b", "ü.example", &"a".repeat(64), &"a.".repeat(200)] {
        assert!(candidates(&Config::new(), name).is_err(), "{name}");
    }
    assert!(candidates(&Config::new(), "a_b.example.").is_ok());
}

#[tokio::test]
async fn literal_addresses_and_localhost_need_no_server() {
    for (host, address) in [("10.1.2.3", "10.1.2.3"), ("[::1]", "::1"), ("::1", "::1")] {
        assert_eq!(addresses(host).await.unwrap(), [address.parse::<IpAddr>().unwrap()]);
    }
    assert_eq!(addresses("LocalHost").await.unwrap().len(), 2);
}
