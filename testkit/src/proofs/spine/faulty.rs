//! The `madang` whose work goes wrong when it is asked to: the crate `faulty`.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::mqtt_client::MqttClient;
use crate::stack::Stack;
use crate::wait::within;

const DEVICE: &str = "probe";

/// A request that goes wrong and whose answer nobody waits for; it is given up when this is dropped.
pub(super) struct Fault(#[allow(dead_code, reason = "held, never read")] TcpStream);

impl Fault {
    pub(super) fn ask(stack: &Stack, at: &str, what: &str) -> Result<Self> {
        let body = json!({ "at": at, "what": what }).to_string();
        let mut stream = TcpStream::connect(stack.http_address())?;
        write!(
            stream,
            "POST /v1/faults HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            stack.http_address(),
            stack.token(),
            body.len()
        )?;
        Ok(Self(stream))
    }
}

/// Ends everything that computes.
pub(super) fn stop(stack: &Stack) -> Result<()> {
    // By a connection of its own, and again until it is heard: handlers may be slow.
    within(Duration::from_secs(30), "the end of all loops", || {
        Ok((stack.api().post("/v1/faults/stop", &json!({}))?.status == 204).then_some(()))
    })
}

pub(super) fn stuck(stack: &Stack) -> Result<Vec<Value>> {
    let body = stack.api().get("/v1/stuck")?.ok()?;
    Ok(body["items"].as_array().cloned().unwrap_or_default())
}

/// Waits until nothing is stuck any more.
pub(super) fn settled(stack: &Stack) -> Result<()> {
    within(Duration::from_mins(1), "that nothing is stuck", || {
        Ok((stuck(stack)?.is_empty() && stack.api().get("/readyz")?.status == 200).then_some(()))
    })
}

/// A device that publishes readings, each acknowledged before the next.
pub(super) struct Device {
    client: MqttClient,
    sent: u64,
}

impl Device {
    /// The first reading registers it.
    pub(super) fn connect(stack: &Stack) -> Result<Self> {
        let (user, password) = (stack.mqtt_user(), stack.mqtt_password());
        let client = MqttClient::connect(stack.mqtt_address(), DEVICE, user, password)?;
        let mut device = Self { client, sent: 0 };
        device.publish()?;
        Ok(device)
    }

    pub(super) fn publish(&mut self) -> Result<()> {
        let (number, second) = (self.sent, self.sent / 1_000);
        let time = format!(
            "2021-01-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            1 + second / 86_400,
            second / 3_600 % 24,
            second / 60 % 60,
            second % 60,
            number % 1_000
        );
        let reading = json!({"sensor": DEVICE, "time": time, "values": {"temp": 20.0}});
        self.client.publish(&format!("data/{DEVICE}"), 1, reading.to_string().as_bytes())?;
        self.client.puback()?;
        self.sent += 1;
        Ok(())
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }
}
