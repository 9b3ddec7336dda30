use proptest::prelude::*;

use super::*;

/// A masked frame of a client.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    head(&mut bytes, 0, payload.len());
    bytes[0] = first;
    bytes[1] |= 0x80;
    let mask = [7, 0, 255, 3];
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// What comes out of bytes that come in pieces.
fn take(bytes: &[u8], piece: usize) -> (String, Vec<String>) {
    let mut decoder = Decoder::default();
    let (mut data, mut others) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece.max(1)) {
        let mut piece = piece.to_vec();
        let taken = decoder.take(&mut piece, |piece| match piece {
            Piece::Data(bytes) => data.extend_from_slice(bytes),
            Piece::Ping(bytes) => others.push(format!("ping {}", String::from_utf8_lossy(bytes))),
            Piece::Close => others.push("close".to_owned()),
        });
        if let Err(fault) = taken {
            others.push(fault.0.into_owned());
            break;
        }
        assert!(decoder.control.len() <= CONTROL_BYTES_MAX);
    }
    (String::from_utf8_lossy(&data).into_owned(), others)
}

#[test]
fn messages_come_through_whole_in_parts_and_with_control_frames_between() {
    let large = "글".repeat(30_000);
    let middle = "m".repeat(300);
    let joined = [
        frame(0x81, "hi ".as_bytes()),
        frame(0x02, b"a"),
        frame(0x89, b"are you there"),
        frame(0x00, b"b"),
        frame(0x80, b"c "),
        frame(0x81, b""),
        frame(0x81, middle.as_bytes()),
        frame(0x8A, b"a pong is nothing"),
        frame(0x81, large.as_bytes()),
        frame(0x88, &[0x03, 0xE8]),
        frame(0x81, b"after the close"),
    ];
    let bytes = joined.concat();
    for piece in [1, 2, 3, 5, 1_000, usize::MAX] {
        let (data, others) = take(&bytes, piece);
        assert!(data == format!("hi abc {middle}{large}"), "by {piece}");
        assert_eq!(others, ["ping are you there", "close"]);
    }
}

#[test]
fn what_rfc_6455_forbids_is_refused() {
    let unmasked = vec![0x81, 0x02, b'h', b'i'];
    let long_control = frame(0x89, &[0; 126]);
    let cut_letter = frame(0x81, &"글".as_bytes()[..2]);
    let split_badly = [frame(0x01, &"글".as_bytes()[..2]), frame(0x80, b"x")].concat();
    let endless = [vec![0x82, 0xFF], vec![0xFF; 8], vec![0; 4]].concat();
    for (bytes, wanted) in [
        (unmasked, "a frame without a mask"),
        (frame(0xC1, b"x"), "a reserved bit without an extension"),
        (frame(0x83, b"x"), "an unknown kind of frame"),
        (frame(0x80, b"x"), "a continuation of nothing"),
        ([frame(0x01, b"x"), frame(0x81, b"y")].concat(), "a message within a message"),
        (frame(0x09, b"x"), "a control frame in parts"),
        (long_control, "a control frame of more than 125 bytes"),
        (frame(0x88, b"x"), "a close that cannot be read"),
        (frame(0x81, b"\xFF"), "a text that is not UTF-8"),
        (cut_letter, "a text that ends within a letter"),
        (split_badly, "a text that is not UTF-8"),
        (endless, "a length with its first bit set"),
    ] {
        for piece in [1, 3, 1_000] {
            let (_, others) = take(&bytes, piece);
            assert_eq!(others, [wanted], "by {piece}");
        }
    }
    // Binary may hold anything.
    assert_eq!(take(&frame(0x82, b"\xFF"), 1).1, [""; 0]);
}

#[test]
fn frames_are_written_with_the_shortest_length() {
    for (bytes, wanted) in [
        (0, vec![0x81, 0]),
        (125, vec![0x81, 125]),
        (126, vec![0x81, 126, 0, 126]),
        (200, vec![0x81, 126, 0, 200]),
        (65_535, vec![0x81, 126, 255, 255]),
        (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let mut head = Vec::new();
        begin(&mut head, true, bytes);
        assert_eq!(head, wanted, "{bytes}");
    }
    let mut closing = Vec::new();
    close(&mut closing, NORMAL);
    assert_eq!(closing, [0x88, 2, 0x03, 0xE8]);
}

proptest! {
    #[test]
    fn any_bytes_mean_the_same_in_any_pieces(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1_usize..30
    ) {
        let (data, others) = take(&bytes, piece);
        let (whole, same) = take(&bytes, 1);
        prop_assert_eq!(&others, &same);
        // A fault may be seen before or after bytes that are wrong themselves.
        prop_assert!(others.iter().any(|it| it.contains("UTF-8")) || data == whole);
    }

    #[test]
    fn a_text_is_followed_over_its_pieces(text in "\\PC{0,40}", piece in 1_usize..5) {
        let mut utf8 = Utf8::default();
        for piece in text.as_bytes().chunks(piece) {
            prop_assert!(utf8.push(piece).is_ok());
        }
        prop_assert!(utf8.is_whole());
    }
}
