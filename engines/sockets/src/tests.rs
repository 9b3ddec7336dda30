mod access;
mod client;
mod house;
mod protocol;
mod queues;
mod slow;
mod topics;
mod web;
