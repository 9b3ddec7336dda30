//! The operations under `/v1`. What goes over the wire stands in `http/wire.rs`.

mod wire;

use std::ops::Bound;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base::{ErrorKind, Page};
use edge::{
    Caller, Created, Events, Json, LastEventId, NoContent, Operation, PageBody, Paging, Path,
    Query, Routes, State, Streams, Undeclared,
};
use relational::Read;

use crate::registry::{Device, Rectangle, Sensor};
use crate::rule::{RuleId, RuleText};
use crate::stream::{Kind, follow};
use crate::{
    ALERTS_READ, DEVICES_KEYS, DEVICES_READ, DEVICES_WRITE, Devices, Error, Fault, KeyRequest,
    READINGS_PUBLISH, READINGS_READ, RULES_READ, RULES_WRITE, store,
};
use wire::{
    AlertView, DeviceBody, DeviceView, EventsQuery, EventsTopic, IssuedKeyView, KeyBody, Patch,
    ReadingsBody, RectangleQuery, RefusedView, RuleBody, RuleView, SensorBody, SensorView,
    TakenView, TrialBody, TrialView,
};

type Result<T> = edge::Result<T>;

/// A request with readings may be this long; more fits into the next.
const READINGS_BODY_BYTES_MAX: usize = 2 << 20;
/// The broker's action for publishing, which a device's key is granted.
const MQTT_PUBLISH: &str = "mqtt.publish";

pub(crate) fn routes(devices: Devices) -> Routes<Devices> {
    let routes = Routes::new(devices);
    reading_routes(rule_routes(device_routes(sensor_routes(routes))))
}

fn sensor_routes(routes: Routes<Devices>) -> Routes<Devices> {
    let of = |place: Undeclared| place.tag("devices");
    routes
        .add(
            of(Operation::get("/v1/sensors"))
                .id("listSensors")
                .summary("The sensor types, by name.")
                .action(DEVICES_READ),
            list_sensors,
        )
        .add(
            of(Operation::post("/v1/sensors"))
                .id("createSensor")
                .summary("Adds a sensor type.")
                .action(DEVICES_WRITE)
                .kinds(&[ErrorKind::AlreadyExists, ErrorKind::TooMany]),
            create_sensor,
        )
        .add(
            of(Operation::get("/v1/sensors/{name}"))
                .id("readSensor")
                .summary("One sensor type.")
                .action(DEVICES_READ)
                .resource("sensor/{name}")
                .kinds(&[ErrorKind::NotFound]),
            read_sensor,
        )
        .add(
            of(Operation::patch("/v1/sensors/{name}"))
                .id("updateSensor")
                .summary(
                    "Changes a sensor type (JSON merge patch). A value that a rule uses stays.",
                )
                .action(DEVICES_WRITE)
                .resource("sensor/{name}")
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict]),
            update_sensor,
        )
        .add(
            of(Operation::delete("/v1/sensors/{name}"))
                .id("deleteSensor")
                .summary("Removes a sensor type that no rule uses. Its readings stay.")
                .action(DEVICES_WRITE)
                .resource("sensor/{name}")
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict]),
            delete_sensor,
        )
}

fn device_routes(routes: Routes<Devices>) -> Routes<Devices> {
    let of = |place: Undeclared| place.tag("devices");
    routes
        .add(
            of(Operation::get("/v1/devices"))
                .id("listDevices")
                .summary(
                    "The devices by name, with their last readings; all or those in a rectangle.",
                )
                .action(DEVICES_READ),
            list_devices,
        )
        .add(
            of(Operation::post("/v1/devices"))
                .id("createDevice")
                .summary("Adds a device.")
                .action(DEVICES_WRITE)
                .kinds(&[ErrorKind::AlreadyExists, ErrorKind::TooMany]),
            create_device,
        )
        .add(
            of(Operation::get("/v1/devices/{name}"))
                .id("readDevice")
                .summary("One device with its last readings.")
                .action(DEVICES_READ)
                .resource("device/{name}")
                .kinds(&[ErrorKind::NotFound]),
            read_device,
        )
        .add(
            of(Operation::patch("/v1/devices/{name}"))
                .id("updateDevice")
                .summary("Changes a device (JSON merge patch).")
                .action(DEVICES_WRITE)
                .resource("device/{name}")
                .kinds(&[ErrorKind::NotFound]),
            update_device,
        )
        .add(
            of(Operation::delete("/v1/devices/{name}"))
                .id("deleteDevice")
                .summary("Removes a device that no rule names. Its readings and alerts stay.")
                .action(DEVICES_WRITE)
                .resource("device/{name}")
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict]),
            delete_device,
        )
        .add(
            of(Operation::post("/v1/devices/{name}/keys"))
                .id("createDeviceKey")
                .summary("Makes a key that may publish this device's readings and nothing else.")
                .action(DEVICES_KEYS)
                .resource("device/{name}")
                .kinds(&[ErrorKind::NotFound])
                .secret(),
            create_device_key,
        )
}

fn rule_routes(routes: Routes<Devices>) -> Routes<Devices> {
    let of = |place: Undeclared| place.tag("rules");
    routes
        .add(
            of(Operation::get("/v1/rules"))
                .id("listRules")
                .summary("The rules, the oldest first.")
                .action(RULES_READ),
            list_rules,
        )
        .add(
            of(Operation::post("/v1/rules"))
                .id("createRule")
                .summary("Adds a rule; it is evaluated when this answers.")
                .action(RULES_WRITE)
                .kinds(&[ErrorKind::TooMany]),
            create_rule,
        )
        .add(
            of(Operation::get("/v1/rules/{id}"))
                .id("readRule")
                .summary("One rule.")
                .action(RULES_READ)
                .resource("rule/{id}")
                .kinds(&[ErrorKind::NotFound]),
            read_rule,
        )
        .add(
            of(Operation::patch("/v1/rules/{id}"))
                .id("updateRule")
                .summary(
                    "Changes a rule (JSON merge patch); its former text is over when this answers.",
                )
                .action(RULES_WRITE)
                .resource("rule/{id}")
                .kinds(&[ErrorKind::NotFound]),
            update_rule,
        )
        .add(
            of(Operation::delete("/v1/rules/{id}"))
                .id("deleteRule")
                .summary("Removes a rule; it is over when this answers. Its alerts stay.")
                .action(RULES_WRITE)
                .resource("rule/{id}")
                .kinds(&[ErrorKind::NotFound]),
            delete_rule,
        )
        .add(
            of(Operation::post("/v1/rules/dry-run"))
                .id("tryRule")
                .summary("What a rule would have done with past readings.")
                .action(READINGS_READ)
                .kinds(&[ErrorKind::TooMany]),
            try_rule,
        )
        .add(
            of(Operation::get("/v1/alerts"))
                .id("listAlerts")
                .summary("The alerts, the newest first.")
                .action(ALERTS_READ),
            list_alerts,
        )
}

fn reading_routes(routes: Routes<Devices>) -> Routes<Devices> {
    let of = |place: Undeclared| place.tag("readings");
    routes
        .add(
            of(Operation::post("/v1/devices/{name}/readings"))
                .id("sendReadings")
                .summary("Takes one reading of a device or a list, as MQTT would. They are on disk when this answers.")
                .action(READINGS_PUBLISH)
                .resource("device/{name}")
                .body_bytes_max(READINGS_BODY_BYTES_MAX)
                .returns::<TakenView>(202),
            send_readings,
        )
        .add(
            of(Operation::get("/v1/events"))
                .id("followEvents")
                .summary("Readings or alerts as they come, as server-sent events.")
                .action(READINGS_READ),
            follow_events,
        )
}

async fn list_sensors(
    State(devices): State<Devices>,
    caller: Caller,
    Paging(request): Paging,
) -> Result<PageBody<SensorView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let page = fleet.registry(|registry| registry.sensors_page(&request));
    Ok(page.map(|sensor| SensorView::from(&*sensor)).into())
}

async fn create_sensor(
    State(devices): State<Devices>,
    caller: Caller,
    Json(body): Json<SensorBody>,
) -> Result<Created<SensorView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let sensor = body.sensor(devices.house.base.clock.now(), &devices.house.config)?;
    Ok(Created(SensorView::from(&*fleet.create_sensor(sensor).await?)))
}

async fn read_sensor(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<SensorView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    Ok(Json(SensorView::from(&*fleet.sensor(&name)?)))
}

async fn update_sensor(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
    Json(patch): Json<Patch<wire::SensorFields>>,
) -> Result<Json<SensorView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let house = devices.house.clone();
    let update = move |old: &Sensor| {
        let fields = patch.apply(&wire::SensorFields::from(old))?;
        let body = SensorBody { name: old.name.clone(), values: fields.values };
        body.sensor(old.created, &house.config)
    };
    Ok(Json(SensorView::from(&*fleet.update_sensor(name, update).await?)))
}

async fn delete_sensor(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<NoContent> {
    let fleet = devices.fleet(caller.organisation()).await?;
    fleet.delete_sensor(name).await?;
    Ok(NoContent)
}

async fn list_devices(
    State(devices): State<Devices>,
    caller: Caller,
    Paging(request): Paging,
    Query(rectangle): Query<RectangleQuery>,
) -> Result<PageBody<DeviceView>> {
    let rectangle: Option<Rectangle> = rectangle.try_into()?;
    let fleet = devices.fleet(caller.organisation()).await?;
    let page = fleet.registry(|registry| registry.devices_page(&request, rectangle));
    let names: Vec<String> = page.items.iter().map(|device| device.name.clone()).collect();
    let organisation = caller.organisation();
    let ask = async move |read: &mut Read| store::last_readings(read, organisation, &names).await;
    let mut last = devices.house.needs.db.read(ask).await?;
    let view = |device: std::sync::Arc<Device>| {
        DeviceView::new(&device, last.remove(&device.name).unwrap_or_default())
    };
    Ok(page.map(view).into())
}

async fn create_device(
    State(devices): State<Devices>,
    caller: Caller,
    Json(body): Json<DeviceBody>,
) -> Result<Created<DeviceView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let device = body.device(devices.house.base.clock.now(), &devices.house.config)?;
    let device = fleet.create_device(device).await?;
    // A device of this name may have been here before, and its readings stayed.
    Ok(Created(view(&devices, &caller, &device).await?))
}

async fn read_device(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<DeviceView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let device = fleet.device(&name)?;
    Ok(Json(view(&devices, &caller, &device).await?))
}

async fn update_device(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
    Json(patch): Json<Patch<wire::DeviceFields>>,
) -> Result<Json<DeviceView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let house = devices.house.clone();
    let update = move |old: &Device| {
        let fields = patch.apply(&wire::DeviceFields::from(old))?;
        fields.named(old.name.clone()).device(old.created, &house.config)
    };
    let device = fleet.update_device(name, update).await?;
    Ok(Json(view(&devices, &caller, &device).await?))
}

async fn delete_device(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<NoContent> {
    let fleet = devices.fleet(caller.organisation()).await?;
    fleet.delete_device(name).await?;
    Ok(NoContent)
}

async fn view(devices: &Devices, caller: &Caller, device: &Device) -> Result<DeviceView> {
    let (organisation, names) = (caller.organisation(), [device.name.clone()]);
    let ask = async move |read: &mut Read| store::last_readings(read, organisation, &names).await;
    let mut last = devices.house.needs.db.read(ask).await?;
    Ok(DeviceView::new(device, last.remove(&device.name).unwrap_or_default()))
}

async fn create_device_key(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<KeyBody>,
) -> Result<Created<IssuedKeyView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let device = fleet.device(&name)?;
    let label = body.label.unwrap_or_else(|| device.name.clone());
    if let Err(why) = crate::rule::check_title(&label) {
        return Err(Error::invalid("/label", why).into());
    }
    let grants = vec![
        (MQTT_PUBLISH, format!("mqtt/data/{}", device.name)),
        (READINGS_PUBLISH.0, crate::device_path(&device.name)),
    ];
    let request = KeyRequest { label, grants };
    let issued = devices.house.needs.keys.issue(&caller.principal, request).await;
    Ok(Created(issued.map_err(Error::from)?.into()))
}

async fn list_rules(
    State(devices): State<Devices>,
    caller: Caller,
    Paging(request): Paging,
) -> Result<PageBody<RuleView>> {
    let after = match &request.after {
        None => Bound::Unbounded,
        Some(id) => Bound::Excluded(id.parse::<RuleId>().map_err(|_| Error::cursor(id))?),
    };
    let set = devices.fleet(caller.organisation()).await?.rules();
    let rules = set.rules.range((after, Bound::Unbounded));
    let rules = rules.take(request.limit + 1).map(|(_, rule)| RuleView::from(&**rule)).collect();
    Ok(Page::of(rules, request.limit, |rule: &RuleView| rule.id.clone()).into())
}

async fn create_rule(
    State(devices): State<Devices>,
    caller: Caller,
    Json(body): Json<RuleBody>,
) -> Result<Created<RuleView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let rule = fleet.create_rule(RuleText::try_from(body)?).await?;
    Ok(Created(RuleView::from(&*rule)))
}

async fn read_rule(
    State(devices): State<Devices>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<RuleView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    Ok(Json(RuleView::from(&*fleet.rule(rule_id(&id)?)?)))
}

async fn update_rule(
    State(devices): State<Devices>,
    caller: Caller,
    Path(id): Path<String>,
    Json(patch): Json<Patch<RuleBody>>,
) -> Result<Json<RuleView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let update = move |old: &RuleText| RuleText::try_from(patch.apply(&RuleBody::from(old))?);
    Ok(Json(RuleView::from(&*fleet.update_rule(rule_id(&id)?, update).await?)))
}

async fn delete_rule(
    State(devices): State<Devices>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<NoContent> {
    let fleet = devices.fleet(caller.organisation()).await?;
    fleet.delete_rule(rule_id(&id)?).await?;
    Ok(NoContent)
}

fn rule_id(id: &str) -> crate::Result<RuleId> {
    id.parse().map_err(|_| Error::NotFound("rule", id.to_owned()))
}

async fn try_rule(
    State(devices): State<Devices>,
    caller: Caller,
    Json(body): Json<TrialBody>,
) -> Result<Json<TrialView>> {
    let (text, from, to) = body.parts()?;
    let fleet = devices.fleet(caller.organisation()).await?;
    let trial = fleet.trial(text, from, to).await.map_err(wire::inside_rule)?;
    Ok(Json(trial.into()))
}

async fn list_alerts(
    State(devices): State<Devices>,
    caller: Caller,
    Paging(request): Paging,
) -> Result<PageBody<AlertView>> {
    devices.fleet(caller.organisation()).await?;
    let organisation = caller.organisation();
    let ask = async move |read: &mut Read| store::alerts(read, organisation, &request).await;
    let page = devices.house.needs.db.read(ask).await?;
    Ok(page.map(AlertView::from).into())
}

async fn send_readings(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<ReadingsBody>,
) -> Result<Response> {
    let payloads = body.payloads()?;
    let most = devices.house.config.request_readings_max;
    if payloads.len() > most {
        let text = format!("more than {most} readings");
        return Err(Error::Invalid(vec![Fault::new("", text)]).into());
    }
    let fleet = devices.fleet(caller.organisation()).await?;
    let refusals = fleet.take(&caller.principal, &name, &payloads).await?;
    let refused: Vec<RefusedView> = refusals
        .iter()
        .enumerate()
        .filter_map(|(index, refusal)| {
            Some(RefusedView { index, reason: refusal.as_ref()?.reason() })
        })
        .collect();
    let taken = TakenView { accepted: refusals.len() - refused.len(), refused };
    Ok((StatusCode::ACCEPTED, Json(taken)).into_response())
}

async fn follow_events(
    State(devices): State<Devices>,
    caller: Caller,
    Query(query): Query<EventsQuery>,
    LastEventId(last): LastEventId,
    streams: Streams,
) -> Result<Events> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let (topic, kind) = match query.topic.unwrap_or(EventsTopic::Readings) {
        EventsTopic::Readings => (fleet.readings.clone(), Kind::Reading),
        EventsTopic::Alerts => (fleet.alerts.clone(), Kind::Alert),
    };
    let bytes_max = devices.house.config.stream_bytes_max;
    streams.open(follow(topic, kind, last.as_deref(), bytes_max)?)
}

impl From<Error> for edge::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(faults) => faults
                .into_iter()
                .fold(Self::invalid("the request does not fit"), |so_far, fault| {
                    so_far.at(fault.pointer, fault.text)
                }),
            error => Self::of(error.kind(), error),
        }
    }
}
