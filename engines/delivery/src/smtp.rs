//! The SMTP client: few connections, kept for the next message, each to an address that egress allows.

use std::collections::VecDeque;
use std::fmt::Display;
use std::time::{Duration, Instant};

use base::Clock;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Quit, Rcpt, Rset};
use lettre::transport::smtp::extension::ClientId;
use parking_lot::Mutex;

use crate::config::{Smtp, SmtpUrl, Tls};
use crate::egress::Egress;
use crate::{EmailAddress, Error};

/// How long a server may take for the manners around messages: RSET, QUIT.
const MANNERS_TIME_MAX: Duration = Duration::from_secs(1);
/// RFC 5321 §3.8: the server is about to close the connection.
const CLOSING: u16 = 421;
/// RFC 4954 §6: the server wants a log-in, a stronger one or an encrypted one first.
const LOG_IN: [u16; 4] = [530, 534, 535, 538];

pub(crate) struct Relay {
    url: SmtpUrl,
    egress: Egress,
    tls: TlsParameters,
    hello: ClientId,
    from: EmailAddress,
    limits: Smtp,
    clock: Clock,
    idle: Mutex<VecDeque<Open>>,
}

/// A connection that greeted and was greeted.
struct Open {
    connection: AsyncSmtpConnection,
    since: Instant,
    messages: u32,
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Whether the same message would be refused again.
    pub(crate) is_permanent: bool,
    pub(crate) reason: String,
    /// The server's, if it answered.
    pub(crate) code: Option<u16>,
}

impl Refusal {
    /// Nothing is wrong with the message.
    fn transient(reason: String) -> Self {
        Self { is_permanent: false, reason, code: None }
    }
}

impl Relay {
    /// `authorities` is PEM text of certificate authorities to trust beside the public ones.
    pub(crate) fn new(
        smtp: &Smtp,
        (url, from): (SmtpUrl, EmailAddress),
        (egress, clock): (Egress, Clock),
        authorities: Option<&[u8]>,
    ) -> Result<Self, Error> {
        let wrong = |error: &dyn Display| Error::Config(format!("delivery.smtp: {error}"));
        let mut tls = TlsParameters::builder(url.host.clone());
        if let Some(pem) = authorities {
            tls = tls.add_root_certificate(Certificate::from_pem(pem).map_err(|e| wrong(&e))?);
        }
        Ok(Self {
            tls: tls.build().map_err(|error| wrong(&error))?,
            hello: ClientId::Domain(from.domain().to_owned()),
            url,
            egress,
            from,
            limits: smtp.clone(),
            clock,
            idle: Mutex::new(VecDeque::new()),
        })
    }

    /// Hands one message over; `Ok` means that the server took it, with this code.
    pub(crate) async fn send(&self, to: &EmailAddress, mail: &[u8]) -> Result<u16, Refusal> {
        let limit = self.limits.send_time_max;
        let Ok(ended) = tokio::time::timeout(limit, self.connect_and_send(to, mail)).await else {
            return Err(Refusal::transient(format!("the server took longer than {limit:?}")));
        };
        let (open, result) = ended?;
        match &result {
            Ok(_) => self.park(open),
            Err(refused) if refused.leaves_connection => self.reset(open).await,
            Err(_) => {}
        }
        result.map_err(|refused| refused.refusal)
    }

    async fn connect_and_send(
        &self,
        to: &EmailAddress,
        mail: &[u8],
    ) -> Result<(Open, Result<u16, Refused>), Refusal> {
        let mut open = match self.idle_connection().await {
            Some(open) => open,
            None => self.connect().await.map_err(Refusal::transient)?,
        };
        open.messages += 1;
        let result = transfer(&mut open.connection, (&self.from, to), mail).await;
        Ok((open, result))
    }

    /// The connection used last, if it still answers.
    async fn idle_connection(&self) -> Option<Open> {
        loop {
            let mut open = self.idle.lock().pop_back()?;
            let idle = self.clock.instant().saturating_duration_since(open.since);
            // Without the question, a dead connection could not be told from a message lost on its way.
            if idle < self.limits.connection_idle_max && open.connection.test_connected().await {
                return Some(open);
            }
        }
    }

    /// Every failure here is the server's or the way's, never the message's: so all are worth another attempt.
    async fn connect(&self) -> Result<Open, String> {
        let share = self.limits.send_time_max / 2;
        let connection = match self.url.tls {
            Tls::Wrapped => self.connect_wrapped(share).await?,
            Tls::Required | Tls::Opportunistic | Tls::None => self.connect_plain(share).await?,
        };
        Ok(Open { connection, since: self.clock.instant(), messages: 0 })
    }

    async fn connect_wrapped(&self, share: Duration) -> Result<AsyncSmtpConnection, String> {
        let addresses = self.egress.resolve(&self.url.host, self.url.port).await;
        let mut last = String::new();
        for address in addresses.map_err(|error| error.to_string())? {
            let tls = Some(self.tls.clone());
            let made =
                AsyncSmtpConnection::connect_tokio1(address, Some(share), &self.hello, tls, None);
            match made.await {
                Ok(mut connection) => {
                    self.log_in(&mut connection, address.ip().is_loopback()).await?;
                    return Ok(connection);
                }
                Err(error) => last = described("connect with TLS", &error),
            }
        }
        Err(last)
    }

    async fn connect_plain(&self, share: Duration) -> Result<AsyncSmtpConnection, String> {
        let stream = self.egress.connect(&self.url.host, self.url.port, share).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let is_loopback = stream.peer_addr().is_ok_and(|address| address.ip().is_loopback());
        let made = AsyncSmtpConnection::connect_with_transport(Box::new(stream), &self.hello).await;
        let mut connection = made.map_err(|error| described("greeting", &error))?;
        let wants_tls = match self.url.tls {
            Tls::Required => true,
            Tls::Opportunistic => connection.can_starttls(),
            Tls::Wrapped | Tls::None => false,
        };
        if wants_tls {
            let upgraded = connection.starttls(self.tls.clone(), &self.hello).await;
            upgraded.map_err(|error| described("STARTTLS", &error))?;
        }
        self.log_in(&mut connection, is_loopback).await?;
        Ok(connection)
    }

    async fn log_in(
        &self,
        connection: &mut AsyncSmtpConnection,
        is_loopback: bool,
    ) -> Result<(), String> {
        let Some((user, password)) = &self.url.credentials else { return Ok(()) };
        if !connection.is_encrypted() && !is_loopback {
            return Err("user and password are not sent without TLS".to_owned());
        }
        let credentials = Credentials::new(user.clone(), password.clone());
        let answer = connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await;
        answer.map(drop).map_err(|error| described("log-in", &error))
    }

    fn park(&self, mut open: Open) {
        if open.messages >= self.limits.messages_per_connection_max {
            return;
        }
        open.since = self.clock.instant();
        let mut idle = self.idle.lock();
        idle.push_back(open);
        if idle.len() > self.limits.in_flight_max {
            idle.pop_front();
        }
    }

    /// Makes a connection ready for the next message after a refusal.
    async fn reset(&self, mut open: Open) {
        let answer = tokio::time::timeout(MANNERS_TIME_MAX, open.connection.command(Rset)).await;
        if matches!(answer, Ok(Ok(_))) {
            self.park(open);
        }
    }

    /// Says goodbye on connections that nobody used for a while.
    pub(crate) async fn close_idle(&self, idle_min: Duration) {
        let now = self.clock.instant();
        let is_old = |open: &Open| now.saturating_duration_since(open.since) >= idle_min;
        let old: Vec<Open> = {
            let mut idle = self.idle.lock();
            let count = idle.iter().take_while(|open| is_old(open)).count();
            idle.drain(..count).collect()
        };
        for mut open in old {
            // The connection is closed either way; the answer does not matter.
            drop(tokio::time::timeout(MANNERS_TIME_MAX, open.connection.command(Quit)).await);
        }
    }
}

struct Refused {
    refusal: Refusal,
    /// The server answered and stays, so that the next message can follow.
    leaves_connection: bool,
}

async fn transfer(
    connection: &mut AsyncSmtpConnection,
    (from, to): (&EmailAddress, &EmailAddress),
    mail: &[u8],
) -> Result<u16, Refused> {
    let sender = Mail::new(Some(from.inner().clone()), Vec::new());
    connection.command(sender).await.map_err(|error| refused("MAIL FROM", &error))?;
    let recipient = Rcpt::new(to.inner().clone(), Vec::new());
    connection.command(recipient).await.map_err(|error| refused("RCPT TO", &error))?;
    connection.command(Data).await.map_err(|error| refused("DATA", &error))?;
    let taken = connection.message(mail).await.map_err(|error| refused("message", &error))?;
    Ok(taken.code().into())
}

fn refused(step: &str, error: &lettre::transport::smtp::Error) -> Refused {
    let code = error.status().map(u16::from);
    // A sender who should have logged in is no fault of the message.
    let is_log_in = code.is_some_and(|code| LOG_IN.contains(&code));
    Refused {
        refusal: Refusal {
            is_permanent: error.is_permanent() && !is_log_in,
            reason: described(step, error),
            code,
        },
        leaves_connection: code.is_some_and(|code| code != CLOSING),
    }
}

/// `RCPT TO: 550 5.1.1 no such user`, on one line of bounded length.
fn described(step: &str, error: &lettre::transport::smtp::Error) -> String {
    let text = match (error.status(), std::error::Error::source(error)) {
        (Some(code), Some(said)) => format!("{step}: {code} {said}"),
        _ => format!("{step}: {error}"),
    };
    crate::mail::one_line(&text).chars().take(500).collect()
}
