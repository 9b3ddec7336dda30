use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use super::stream::{Client, FAMILIES, run};
use super::{House, folder, relaxed};

pub(super) struct Redis {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Redis {
    pub(super) fn start() -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("redis-server")
            .args(["--port", &address.port().to_string(), "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        while Client::connect(address).is_err() {
            std::thread::yield_now();
        }
        Self { child, address }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn random_commands_are_answered_as_by_redis() {
    let folder = folder();
    let house = House::open(relaxed(), folder.path()).unwrap();
    let redis = Redis::start();
    let mut differences = Vec::new();
    for (family, templates) in FAMILIES {
        for seed in 1..=6 {
            let about = (*family, *templates, seed, 3_000);
            if let Err(difference) = run(house.address, redis.address, about) {
                differences.push(format!("{family}: {difference}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
    house.close();
}
