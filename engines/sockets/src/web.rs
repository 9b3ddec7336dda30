//! WebSocket (RFC 6455) as a server speaks it, without a socket: what comes in is unmasked where it lies and passed on
//! in pieces, so that a message of any size needs no memory here.

use crate::frame::Fault;

/// A frame begins with at most 2 bytes, 8 of length and 4 of mask.
const HEAD_BYTES_MAX: usize = 14;
const CONTROL_BYTES_MAX: usize = 125;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// Close codes, RFC 6455 section 7.4.1.
pub(crate) const NORMAL: u16 = 1000;
pub(crate) const GOING_AWAY: u16 = 1001;
pub(crate) const PROTOCOL_ERROR: u16 = 1002;
pub(crate) const POLICY: u16 = 1008;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Data(&'a [u8]),
    Ping(&'a [u8]),
    Close,
}

#[derive(Debug, Default)]
pub(crate) struct Decoder {
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: u8,
    /// The frame whose payload is coming.
    frame: Option<Coming>,
    /// A message of several frames is open; whether it is text.
    open: Option<bool>,
    text: Utf8,
    /// The payload of a control frame so far.
    control: Vec<u8>,
    is_closed: bool,
}

#[derive(Debug)]
struct Coming {
    opcode: u8,
    is_last: bool,
    left: u64,
    mask: [u8; 4],
    /// Where in the mask the next byte is.
    turn: usize,
}

impl Decoder {
    /// Takes bytes in. What comes after a close is not looked at.
    pub(crate) fn take(
        &mut self,
        mut bytes: &mut [u8],
        mut give: impl FnMut(Piece<'_>),
    ) -> Result<(), Fault> {
        while !self.is_closed {
            if self.frame.is_none() {
                let Some(rest) = self.begin(std::mem::take(&mut bytes))? else { return Ok(()) };
                bytes = rest;
            }
            let Some(frame) = &mut self.frame else { continue };
            let count = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at_mut(count);
            bytes = later;
            for byte in now.iter_mut() {
                *byte ^= frame.mask[frame.turn];
                frame.turn = (frame.turn + 1) % 4;
            }
            frame.left -= count as u64;
            let (opcode, is_whole) = (frame.opcode, frame.left == 0);
            let ends_message = is_whole && frame.is_last;
            if opcode >= CLOSE {
                self.control.extend_from_slice(now);
                if !is_whole {
                    return Ok(());
                }
                self.frame = None;
                self.end_control(opcode, &mut give)?;
                continue;
            }
            if self.open == Some(true) {
                self.text.push(now).map_err(|()| Fault::from("a text that is not UTF-8"))?;
            }
            if !now.is_empty() {
                give(Piece::Data(now));
            }
            if ends_message {
                self.open = None;
                if !self.text.is_whole() {
                    return Err("a text that ends within a letter".into());
                }
            }
            if !is_whole {
                return Ok(());
            }
            self.frame = None;
        }
        Ok(())
    }

    /// Reads the head of a frame and gives what is behind it; nothing when more of it has to come.
    fn begin<'a>(&mut self, bytes: &'a mut [u8]) -> Result<Option<&'a mut [u8]>, Fault> {
        let mut taken = 0;
        loop {
            let have = usize::from(self.head_bytes);
            let want = self.head_wanted();
            if have >= 2 && have == want {
                break;
            }
            let Some(byte) = bytes.get(taken) else { return Ok(None) };
            self.head[have] = *byte;
            self.head_bytes += 1;
            taken += 1;
            if self.head_bytes == 2 {
                self.check_head()?;
            }
        }
        let mask_at = self.head_wanted() - 4;
        let left = match self.head[1] & 0x7F {
            126 => u64::from(u16::from_be_bytes([self.head[2], self.head[3]])),
            127 => {
                let length = self.head[2..10].try_into().expect("eight bytes");
                u64::from_be_bytes(length)
            }
            short => u64::from(short),
        };
        if left > i64::MAX as u64 {
            return Err("a length with its first bit set".into());
        }
        let mask = self.head[mask_at..mask_at + 4].try_into().expect("four bytes");
        let opcode = self.head[0] & 0x0F;
        let is_last = self.head[0] & 0x80 != 0;
        if matches!(opcode, TEXT | BINARY) {
            self.open = Some(opcode == TEXT);
            self.text = Utf8::default();
        }
        self.head_bytes = 0;
        self.frame = Some(Coming { opcode, is_last, left, mask, turn: 0 });
        Ok(Some(&mut bytes[taken..]))
    }

    fn head_wanted(&self) -> usize {
        if self.head_bytes < 2 {
            return 2;
        }
        let length = match self.head[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + 4
    }

    fn check_head(&self) -> Result<(), Fault> {
        let [first, second] = [self.head[0], self.head[1]];
        let (opcode, is_last) = (first & 0x0F, first & 0x80 != 0);
        if first & 0x70 != 0 {
            return Err("a reserved bit without an extension".into());
        }
        if second & 0x80 == 0 {
            return Err("a frame without a mask".into());
        }
        match opcode {
            CONTINUATION if self.open.is_none() => Err("a continuation of nothing".into()),
            TEXT | BINARY if self.open.is_some() => Err("a message within a message".into()),
            CLOSE | PING | PONG if !is_last => Err("a control frame in parts".into()),
            CLOSE | PING | PONG if usize::from(second & 0x7F) > CONTROL_BYTES_MAX => {
                Err("a control frame of more than 125 bytes".into())
            }
            CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG => Ok(()),
            _ => Err("an unknown kind of frame".into()),
        }
    }

    fn end_control(&mut self, opcode: u8, give: &mut impl FnMut(Piece<'_>)) -> Result<(), Fault> {
        let payload = std::mem::take(&mut self.control);
        match opcode {
            PING => give(Piece::Ping(&payload)),
            CLOSE => {
                let reason = payload.get(2..).unwrap_or_default();
                if payload.len() == 1 || std::str::from_utf8(reason).is_err() {
                    return Err("a close that cannot be read".into());
                }
                self.is_closed = true;
                give(Piece::Close);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Follows a text over its pieces.
#[derive(Debug, Default)]
struct Utf8 {
    /// The beginning of a letter whose end has not come.
    begun: [u8; 4],
    count: u8,
}

impl Utf8 {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), ()> {
        while self.count > 0 {
            let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
            self.begun[usize::from(self.count)] = *first;
            self.count += 1;
            bytes = rest;
            match std::str::from_utf8(&self.begun[..usize::from(self.count)]) {
                Ok(_) => self.count = 0,
                Err(error) if error.error_len().is_some() || self.count == 4 => return Err(()),
                Err(_) => {}
            }
        }
        match std::str::from_utf8(bytes) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_some() => Err(()),
            Err(error) => {
                let rest = &bytes[error.valid_up_to()..];
                self.begun[..rest.len()].copy_from_slice(rest);
                self.count = u8::try_from(rest.len()).expect("a letter has at most four bytes");
                Ok(())
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.count == 0
    }
}

/// Begins a data frame that is a whole message.
pub(crate) fn begin(into: &mut Vec<u8>, is_text: bool, bytes: usize) {
    head(into, if is_text { TEXT } else { BINARY }, bytes);
}

pub(crate) fn pong(into: &mut Vec<u8>, payload: &[u8]) {
    head(into, PONG, payload.len());
    into.extend_from_slice(payload);
}

pub(crate) fn close(into: &mut Vec<u8>, code: u16) {
    head(into, CLOSE, 2);
    into.extend_from_slice(&code.to_be_bytes());
}

fn head(into: &mut Vec<u8>, opcode: u8, bytes: usize) {
    into.push(0x80 | opcode);
    match (u8::try_from(bytes), u16::try_from(bytes)) {
        (Ok(short), _) if usize::from(short) <= CONTROL_BYTES_MAX => into.push(short),
        (_, Ok(middle)) => {
            into.push(126);
            into.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            into.push(127);
            into.extend_from_slice(&(bytes as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
