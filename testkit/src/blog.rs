use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::Result;

/// Pages of another origin than the server's: `http://localhost:PORT/anything` shows the same page. It answers for as
/// long as the process runs.
pub struct Blog {
    pub port: u16,
}

impl Blog {
    pub fn open(page: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let page = page.clone();
                // A browser opens connections that it does not use.
                std::thread::spawn(move || answer(&stream, &page));
            }
        });
        Ok(Self { port })
    }

    /// `http://localhost:PORT`; the server is at 127.0.0.1, so to a browser it is another site too.
    pub fn origin(&self) -> String {
        format!("http://localhost:{}", self.port)
    }
}

fn answer(mut stream: &TcpStream, page: &str) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
    }
    let length = page.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all((head + page).as_bytes()).ok()
}
