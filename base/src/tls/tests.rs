use std::collections::VecDeque;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// What is between the two sides: it takes so many bytes at a time, and holds so many.
struct Line {
    there: VecDeque<u8>,
    back: VecDeque<u8>,
    step: usize,
    room: usize,
}

/// The server's end of it.
struct Here<'a>(&'a mut Line);

impl Read for Here<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.0.step).min(self.0.there.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for (to, from) in buffer.iter_mut().zip(self.0.there.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }
}

impl Write for Here<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.0.step).min(self.0.room - self.0.back.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.back.extend(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pair() -> (Session, ClientConnection) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::new(client), name).unwrap();
    (Tls::new(Arc::new(server)).accept().unwrap(), client)
}

fn line(step: usize, room: usize) -> Line {
    Line { there: VecDeque::new(), back: VecDeque::new(), step, room }
}

/// Lets the client send what it has, and take what came. Says whether it did anything.
fn client_turn(client: &mut ClientConnection, line: &mut Line, heard: &mut Vec<u8>) -> bool {
    let mut has_moved = false;
    while client.wants_write() && line.there.len() < line.room {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        line.there.extend(bytes);
        has_moved = true;
    }
    while !line.back.is_empty() {
        let bytes: Vec<u8> = line.back.drain(..).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
            // It ends by asking for more.
            let _ = client.reader().read_to_end(heard);
        }
        has_moved = true;
    }
    has_moved
}

fn blocked<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

/// Both talk at once, through a line of this kind.
fn talk(step: usize, room: usize) {
    let question: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
    let answer: Vec<u8> = (0..500_000_u32).map(|number| (number % 241) as u8).collect();
    let (mut server, mut client) = pair();
    client.set_buffer_limit(None);
    client.writer().write_all(&question).unwrap();
    let mut line = line(step, room);
    let (mut heard, mut asked, mut written) = (Vec::new(), Vec::new(), 0);
    let mut buffer = [0; 1_000];
    while heard.len() < answer.len() || asked.len() < question.len() {
        let mut has_moved = client_turn(&mut client, &mut line, &mut heard);
        while let Some(count) = blocked(server.read(&mut Here(&mut line), &mut buffer)) {
            asked.extend_from_slice(&buffer[..count]);
            has_moved = true;
        }
        if written < answer.len() {
            let some = &answer[written..answer.len().min(written + 70_000)];
            if let Some(count) = blocked(server.write(&mut Here(&mut line), some)) {
                assert!(count > 0 && !server.wants_write(), "what was written is on its way");
                written += count;
                has_moved = true;
            }
        }
        assert!(has_moved || !line.back.is_empty(), "nobody goes on");
    }
    assert!(asked == question && heard == answer);
}

#[test]
fn both_sides_hear_everything_whatever_the_socket_takes_at_a_time() {
    for (step, room) in [(1 << 20, 1 << 20), (1, 64), (7, 100), (1_000, 3_000)] {
        talk(step, room);
    }
}

#[test]
fn a_goodbye_is_an_end_and_so_is_a_socket_that_ends() {
    let (mut server, mut client) = pair();
    let mut line = line(1 << 20, 1 << 20);
    client.writer().write_all(b"last words").unwrap();
    let (mut buffer, mut heard, mut said) = ([0; 4], Vec::new(), Vec::new());
    let mut has_closed = false;
    loop {
        if !client.is_handshaking() && !std::mem::replace(&mut has_closed, true) {
            client.send_close_notify();
        }
        client_turn(&mut client, &mut line, &mut heard);
        match blocked(server.read(&mut Here(&mut line), &mut buffer)) {
            Some(0) => break,
            Some(count) => said.extend_from_slice(&buffer[..count]),
            None => {}
        }
    }
    assert_eq!(said, b"last words");
    server.close(&mut Here(&mut line)).unwrap();
    client_turn(&mut client, &mut line, &mut heard);
    assert!(client.process_new_packets().unwrap().peer_has_closed());

    let (mut server, _) = pair();
    let mut gone = io::Cursor::new(Vec::new());
    assert_eq!(server.read(&mut gone, &mut buffer).unwrap(), 0);
    assert!(server.write(&mut gone, b"x").is_err());
}

#[test]
fn what_is_not_tls_is_refused_with_an_alert() {
    let (mut server, _) = pair();
    let mut line = line(1 << 20, 1 << 20);
    line.there.extend(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let error = server.read(&mut Here(&mut line), &mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(line.back.front(), Some(&0x15), "a record of alerts");
    assert_eq!(server.read(&mut Here(&mut line), &mut [0; 100]).unwrap(), 0);
}
