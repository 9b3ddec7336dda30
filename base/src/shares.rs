use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Cidr, network_of};

/// How much of something each peer holds at once: connections, requests. A peer is an address of IPv4 or a /64 of IPv6.
#[derive(Debug)]
pub struct Shares {
    held: Mutex<HashMap<IpAddr, usize>>,
    max: usize,
    unlimited: Vec<Cidr>,
}

/// One of a peer's share, until it is dropped.
#[derive(Debug)]
pub struct Share(Option<(Arc<Shares>, IpAddr)>);

impl Shares {
    /// Each peer may hold `max`; those of the networks `unlimited` as many as there are.
    pub fn new(max: usize, unlimited: Vec<Cidr>) -> Arc<Self> {
        Arc::new(Self { held: Mutex::default(), max, unlimited })
    }

    /// None when the peer holds its share already.
    pub fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Share> {
        let plain = peer.to_canonical();
        if self.unlimited.iter().any(|it| it.holds(plain) || it.holds(peer)) {
            return Some(Share(None));
        }
        let network = network_of(peer);
        let mut held = self.held.lock();
        let count = held.entry(network).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Share(Some((self.clone(), network))))
    }

    /// Peers that hold something.
    pub fn peers(&self) -> usize {
        self.held.lock().len()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some((shares, network)) = self.0.take() else { return };
        let mut held = shares.held.lock();
        if let Some(count) = held.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                held.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_holds_its_share_and_no_more_and_leaves_nothing_behind() {
        let shares = Shares::new(2, vec!["10.0.0.0/8".parse().unwrap()]);
        let take = |text: &str| shares.take(text.parse().unwrap());
        let first = take("192.0.2.1").unwrap();
        let second = take("::ffff:192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none(), "the same address");
        assert!(take("192.0.2.2").is_some(), "another one");
        drop(first);
        let third = take("192.0.2.1").unwrap();
        let six = [take("2001:db8::1").unwrap(), take("2001:db8::2:1").unwrap()];
        assert!(take("2001:db8::ffff").is_none(), "the same network");
        assert!(take("2001:db8:0:1::1").is_some());
        let many: Vec<_> = (0..9).map(|_| take("10.1.2.3").unwrap()).collect();
        assert!(take("::ffff:10.1.2.3").is_some(), "as many as there are");
        drop((second, third, six, many));
        assert_eq!(shares.peers(), 0);
    }
}
