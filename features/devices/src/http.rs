//! The operations under `/v1`. What goes over the wire stands in `http/wire.rs`.

mod acting;
mod dashboards;
mod wire;

use std::ops::Bound;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base::access::{Action, Resource};
use base::{ErrorKind, EventId, Page};
use edge::{
    Caller, Created, Events, Json, LastEventId, NoContent, Operation, PageBody, Paging, Path,
    Query, Routes, State, Streams, Undeclared,
};
use relational::{Read, Tx};

use crate::evidence::Evidence;
use crate::health::keeper;
use crate::intake::{ANSWER_PREFIX, COMMAND_PREFIX, DESIRED_PREFIX, REPORTED_PREFIX};
use crate::persons::author_of;
use crate::reading::check_name;
use crate::registry::{Device, DeviceFilter, Sensor};
use crate::rule::{RuleId, RuleText};
use crate::series::Series;
use crate::store::{AlertFilter, AlertState};
use crate::stream::{Kind, follow};
use crate::{
    ALERTS_READ, ALERTS_WRITE, DEVICES_KEYS, DEVICES_PROVISION, DEVICES_READ, DEVICES_WRITE,
    Devices, Error, Fault, KeyRequest, MQTT_CLIENT, MQTT_PUBLISH, MQTT_SUBSCRIBE, READINGS_PUBLISH,
    READINGS_READ, RULES_READ, RULES_WRITE, backfill, csv, store,
};
use wire::{
    AlertDetailView, AlertView, AlertsQuery, BackfillBody, BackfilledView, BatteryView, DeviceBody,
    DeviceView, DevicesBody, DevicesImportBody, DevicesQuery, EventsQuery, EventsTopic,
    ExportFormat, ExportQuery, HandleBody, HealthEntryView, HealthState, ImportedView,
    IssuedKeyView, KeyBody, Patch, ReadingsBody, RefusedView, RestoreBody, RuleBody, RuleView,
    RulesBody, SensorBody, SensorView, TakenView, TrialBody, TrialView, VersionView,
};

type Result<T> = edge::Result<T>;

/// A request with readings may be this long; more fits into the next.
const READINGS_BODY_BYTES_MAX: usize = 2 << 20;

pub(crate) fn routes(devices: Devices) -> Routes<Devices> {
    let routes = Routes::new(devices);
    let routes = acting::actuator_routes(device_routes(sensor_routes(routes)));
    let routes = alert_routes(rule_routes(acting::command_routes(routes)));
    dashboards::routes(reading_routes(routes))
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
                    "The devices by name, with their last readings; all, or those in a rectangle, with a text, a tag, a group or a health.",
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
            of(Operation::get("/v1/devices/{name}/health"))
                .id("readDeviceHealth")
                .summary("How well a device was heard, the newest change first.")
                .action(DEVICES_READ)
                .resource("device/{name}")
                .kinds(&[ErrorKind::NotFound]),
            device_health,
        )
        .add(
            of(Operation::get("/v1/devices/{name}/battery"))
                .id("readDeviceBattery")
                .summary("How full the battery of a device was, the newest first.")
                .action(DEVICES_READ)
                .resource("device/{name}")
                .kinds(&[ErrorKind::NotFound]),
            device_battery,
        )
        .add(
            of(Operation::post("/v1/devices/{name}/keys"))
                .id("createDeviceKey")
                .summary("Makes a key that may publish this device's readings, hear and answer what is wanted of it, and nothing else.")
                .action(DEVICES_KEYS)
                .resource("device/{name}")
                .kinds(&[ErrorKind::NotFound])
                .secret(),
            create_device_key,
        )
        .add(
            of(Operation::post("/v1/devices/{name}/provision"))
                .id("provisionDevice")
                .summary(
                    "Registers a device of a fleet and makes it its own key, once. The caller's key is shared by the fleet.",
                )
                .action(DEVICES_PROVISION)
                .resource("device/{name}")
                .kinds(&[ErrorKind::AlreadyExists, ErrorKind::TooMany])
                .secret(),
            provision_device,
        )
        .add(
            of(Operation::get("/v1/devices-export"))
                .id("exportDevices")
                .summary("Every device, to be imported elsewhere; as JSON or CSV.")
                .action(DEVICES_READ)
                .returns::<DevicesBody>(200)
                .media("text/csv"),
            export_devices,
        )
        .add(
            of(Operation::post("/v1/devices-import"))
                .id("importDevices")
                .summary("Takes devices in, all or none. A device of a known name is changed, others are new.")
                .action(DEVICES_WRITE)
                .body_bytes_max(READINGS_BODY_BYTES_MAX)
                .kinds(&[ErrorKind::TooMany]),
            import_devices,
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
            of(Operation::get("/v1/rules/{id}/versions"))
                .id("listRuleVersions")
                .summary("The texts that a rule had, the newest first.")
                .action(RULES_READ)
                .resource("rule/{id}")
                .kinds(&[ErrorKind::NotFound]),
            rule_versions,
        )
        .add(
            of(Operation::post("/v1/rules/{id}/restore"))
                .id("restoreRule")
                .summary("Makes a former text of a rule its newest one; the other is over when this answers.")
                .action(RULES_WRITE)
                .resource("rule/{id}")
                .kinds(&[ErrorKind::NotFound]),
            restore_rule,
        )
        .add(
            of(Operation::get("/v1/rules-export"))
                .id("exportRules")
                .summary("Every rule's text, to be imported elsewhere.")
                .action(RULES_READ),
            export_rules,
        )
        .add(
            of(Operation::post("/v1/rules-import"))
                .id("importRules")
                .summary("Takes rules in, all at one moment or none. A rule of a known name is changed, others are new.")
                .action(RULES_WRITE)
                .body_bytes_max(READINGS_BODY_BYTES_MAX)
                .kinds(&[ErrorKind::TooMany]),
            import_rules,
        )
}

fn alert_routes(routes: Routes<Devices>) -> Routes<Devices> {
    let of = |place: Undeclared| place.tag("rules");
    routes
        .add(
            of(Operation::get("/v1/alerts"))
                .id("listAlerts")
                .summary("The alerts, the newest first; all, or those in a state, of a device or of a rule.")
                .action(ALERTS_READ),
            list_alerts,
        )
        .add(
            of(Operation::get("/v1/alerts/{id}"))
                .id("readAlert")
                .summary("Why an alert was raised: what each condition saw, the rule as it was, and the readings.")
                .action(ALERTS_READ)
                .resource("alert/{id}")
                .kinds(&[ErrorKind::NotFound]),
            read_alert,
        )
        .add(
            of(Operation::post("/v1/alerts/{id}/acknowledge"))
                .id("acknowledgeAlert")
                .summary("Says that somebody takes an alert in hand. Whoever was first stays.")
                .action(ALERTS_WRITE)
                .resource("alert/{id}")
                .kinds(&[ErrorKind::NotFound]),
            acknowledge_alert,
        )
        .add(
            of(Operation::post("/v1/alerts/{id}/clear"))
                .id("clearAlert")
                .summary("Says that an alert is over. Whoever was first stays.")
                .action(ALERTS_WRITE)
                .resource("alert/{id}")
                .kinds(&[ErrorKind::NotFound]),
            clear_alert,
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
            of(Operation::post("/v1/readings-import"))
                .id("importReadings")
                .summary("Takes readings of the past from a table, one line each. They are on disk when this answers, and each counts once, however often it is sent.")
                .action(READINGS_PUBLISH)
                .body_bytes_max(READINGS_BODY_BYTES_MAX)
                .returns::<BackfilledView>(202),
            import_readings,
        )
        .add(
            of(Operation::get("/v1/devices/{name}/series"))
                .id("readSeries")
                .summary("What a value of a device was over a span of time: readings, or their roll-ups by the minute, the hour or the day.")
                .action(READINGS_READ)
                .resource("device/{name}")
                .kinds(&[ErrorKind::NotFound, ErrorKind::TooMany]),
            read_series,
        )
        .add(
            of(Operation::get("/v1/events"))
                .id("followEvents")
                .summary("Readings, alerts or changes of health as they come, as server-sent events.")
                .action(READINGS_READ),
            follow_events,
        )
}

async fn read_series(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<wire::SeriesQuery>,
) -> Result<Json<Series>> {
    let wanted = query.wanted(name)?;
    let fleet = devices.fleet(caller.organisation()).await?;
    Ok(Json(fleet.series(wanted).await?))
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
        let wire::SensorFields { values, silent_after_seconds, lateness_seconds, retention } =
            fields;
        let name = old.name.clone();
        let body = SensorBody { name, values, silent_after_seconds, lateness_seconds, retention };
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
    Query(query): Query<DevicesQuery>,
) -> Result<PageBody<DeviceView>> {
    let wanted = query.health;
    let filter = DeviceFilter::try_from(query)?;
    let fleet = devices.fleet(caller.organisation()).await?;
    let page = fleet.registry(|registry| {
        let vitals = fleet.vitals.lock();
        let state = |device: &Device| vitals.told(&device.name).map(|health| health.state);
        registry.devices_page(&request, &filter, |device| {
            wanted
                .is_none_or(|wanted| HealthState::from(state(device).unwrap_or_default()) == wanted)
        })
    });
    let names: Vec<String> = page.items.iter().map(|device| device.name.clone()).collect();
    let organisation = caller.organisation();
    let ask = async move |read: &mut Read| store::last_readings(read, organisation, &names).await;
    let mut last = devices.house.needs.db.read(ask).await?;
    let view = |device: std::sync::Arc<Device>| {
        let last = last.remove(&device.name).unwrap_or_default();
        let signs = (fleet.health_of(&device), fleet.battery_of(&device.name));
        DeviceView::new(&device, signs, last)
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
    let fleet = devices.fleet(organisation).await?;
    let signs = (fleet.health_of(device), fleet.battery_of(&device.name));
    Ok(DeviceView::new(device, signs, last.remove(&device.name).unwrap_or_default()))
}

async fn device_health(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
    Paging(request): Paging,
) -> Result<PageBody<HealthEntryView>> {
    let organisation = caller.organisation();
    devices.fleet(organisation).await?.device(&name)?;
    let ask =
        async move |read: &mut Read| keeper::history(read, organisation, &name, &request).await;
    let page = devices.house.needs.db.read(ask).await?;
    Ok(page.map(HealthEntryView::from).into())
}

async fn device_battery(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
    Paging(request): Paging,
) -> Result<PageBody<BatteryView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    fleet.device(&name)?;
    Ok(fleet.battery_history(&name, &request).await?.map(BatteryView::from).into())
}

async fn create_device_key(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<KeyBody>,
) -> Result<Created<IssuedKeyView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let device = fleet.device(&name)?;
    Ok(Created(issue_key(&devices, &caller, &device.name, body).await?))
}

/// Makes a key that may publish as the device and nothing else.
async fn issue_key(
    devices: &Devices,
    caller: &Caller,
    name: &str,
    body: KeyBody,
) -> Result<IssuedKeyView> {
    let label = body.label.unwrap_or_else(|| name.to_owned());
    if let Err(why) = crate::rule::check_title(&label) {
        return Err(Error::invalid("/label", why).into());
    }
    let mut grants = vec![
        (MQTT_PUBLISH, format!("mqtt/data/{name}")),
        (READINGS_PUBLISH.0, crate::device_path(name)),
    ];
    // A fleet's key may be made for readings alone, and nobody gives what they do not have.
    let further = [
        (MQTT_SUBSCRIBE, format!("mqtt/{COMMAND_PREFIX}{name}")),
        (MQTT_PUBLISH, format!("mqtt/{ANSWER_PREFIX}{name}")),
        (MQTT_SUBSCRIBE, format!("mqtt/{DESIRED_PREFIX}{name}")),
        (MQTT_PUBLISH, format!("mqtt/{REPORTED_PREFIX}{name}")),
        // The session of its former key is this one's too.
        (MQTT_CLIENT, format!("client/{name}")),
    ];
    let authority = &devices.house.needs.authority;
    grants.extend(further.into_iter().filter(|(action, path)| {
        let resource = Resource { organisation: caller.organisation(), path };
        authority.authorize(&caller.principal, Action(action), resource).is_ok()
    }));
    let request = KeyRequest { label, grants };
    let issued = devices.house.needs.keys.issue(&caller.principal, request).await;
    Ok(issued.map_err(Error::from)?.into())
}

async fn provision_device(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<KeyBody>,
) -> Result<Created<IssuedKeyView>> {
    if let Err(why) = check_name(&name) {
        return Err(Error::invalid("name", format!("the name {why}")).into());
    }
    let fleet = devices.fleet(caller.organisation()).await?;
    let now = devices.house.base.clock.now();
    let device = Device { provisioned: Some(now), ..Device::new(&name, now) };
    fleet.provision(device).await?;
    let issued = issue_key(&devices, &caller, &name, body).await;
    if issued.is_err() {
        // It has no key, so it may try again.
        let undo = |device: &Device| Ok(Device { provisioned: None, ..device.clone() });
        fleet.update_device(name, undo).await?;
    }
    Ok(Created(issued?))
}

async fn export_devices(
    State(devices): State<Devices>,
    caller: Caller,
    Query(query): Query<ExportQuery>,
) -> Result<Response> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let all: Vec<DeviceBody> = fleet
        .registry(|registry| registry.devices.values().map(|it| DeviceBody::from(&**it)).collect());
    if query.format.unwrap_or_default() == ExportFormat::Csv {
        let text = csv::write(all.into_iter().map(DeviceBody::row));
        let kind = [(header::CONTENT_TYPE, "text/csv; charset=utf-8")];
        return Ok((StatusCode::OK, kind, text).into_response());
    }
    Ok((StatusCode::OK, Json(DevicesBody { devices: all })).into_response())
}

async fn import_devices(
    State(devices): State<Devices>,
    caller: Caller,
    Json(body): Json<DevicesImportBody>,
) -> Result<Json<ImportedView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let all = body.devices(devices.house.base.clock.now(), &devices.house.config)?;
    let (created, changed) = fleet.import_devices(all).await?;
    Ok(Json(ImportedView { created, changed }))
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
    let rule = fleet.create_rule(RuleText::try_from(body)?, author(&caller)).await?;
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
    let rule = fleet.update_rule(rule_id(&id)?, author(&caller), update).await?;
    Ok(Json(RuleView::from(&*rule)))
}

fn author(caller: &Caller) -> String {
    author_of(&caller.principal)
}

async fn rule_versions(
    State(devices): State<Devices>,
    caller: Caller,
    Path(id): Path<String>,
    Paging(request): Paging,
) -> Result<PageBody<VersionView>> {
    let (organisation, id) = (caller.organisation(), rule_id(&id)?);
    devices.fleet(organisation).await?.rule(id)?;
    let ask = async move |read: &mut Read| store::versions(read, organisation, id, &request).await;
    let page = devices.house.needs.db.read(ask).await?;
    let named = |mut version: store::Version| {
        version.author = devices.house.name_of(organisation, version.author);
        VersionView::from(version)
    };
    Ok(page.map(named).into())
}

async fn restore_rule(
    State(devices): State<Devices>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<RestoreBody>,
) -> Result<Json<RuleView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let rule = fleet.restore_rule(rule_id(&id)?, body.version, author(&caller)).await?;
    Ok(Json(RuleView::from(&*rule)))
}

async fn export_rules(State(devices): State<Devices>, caller: Caller) -> Result<Json<RulesBody>> {
    let set = devices.fleet(caller.organisation()).await?.rules();
    let rules = set.rules.values().map(|rule| RuleBody::from(&rule.text)).collect();
    Ok(Json(RulesBody { rules }))
}

async fn import_rules(
    State(devices): State<Devices>,
    caller: Caller,
    Json(body): Json<RulesBody>,
) -> Result<Json<ImportedView>> {
    let texts = Vec::<RuleText>::try_from(body)?;
    let fleet = devices.fleet(caller.organisation()).await?;
    let (created, changed) = fleet.import_rules(texts, author(&caller)).await?;
    Ok(Json(ImportedView { created, changed }))
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
    Query(query): Query<AlertsQuery>,
) -> Result<PageBody<AlertView>> {
    let filter = AlertFilter::try_from(query)?;
    devices.fleet(caller.organisation()).await?;
    let organisation = caller.organisation();
    let ask =
        async move |read: &mut Read| store::alerts(read, organisation, &filter, &request).await;
    let page = devices.house.needs.db.read(ask).await?;
    Ok(page.map(|alert| devices.house.named(organisation, alert).into()).into())
}

fn alert_id(id: &str) -> crate::Result<EventId> {
    id.parse().map_err(|_| Error::NotFound("alert", id.to_owned()))
}

async fn read_alert(
    State(devices): State<Devices>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<AlertDetailView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let evidence = fleet.evidence(alert_id(&id)?).await?;
    let alert = devices.house.named(caller.organisation(), evidence.alert);
    Ok(Json(Evidence { alert, ..evidence }.into()))
}

async fn acknowledge_alert(
    State(devices): State<Devices>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<HandleBody>,
) -> Result<Json<AlertView>> {
    handle(&devices, &caller, alert_id(&id)?, (AlertState::Acknowledged, body.checked()?)).await
}

async fn clear_alert(
    State(devices): State<Devices>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<HandleBody>,
) -> Result<Json<AlertView>> {
    handle(&devices, &caller, alert_id(&id)?, (AlertState::Cleared, body.checked()?)).await
}

async fn handle(
    devices: &Devices,
    caller: &Caller,
    id: EventId,
    (state, note): (AlertState, Option<String>),
) -> Result<Json<AlertView>> {
    let organisation = caller.organisation();
    devices.fleet(organisation).await?;
    let (now, who) = (devices.house.base.clock.now(), author(caller));
    let put = async move |tx: &mut Tx| {
        let done = (state, now, who.as_str(), note.as_deref());
        if !store::handle_alert(tx, organisation, id, done).await? {
            return Err(Error::NotFound("alert", id.to_string()));
        }
        Ok(())
    };
    devices.house.needs.db.write(put).await?;
    let ask = async move |read: &mut Read| store::alert(read, organisation, id).await;
    let alert = devices.house.needs.db.read(ask).await?;
    let alert = alert.ok_or_else(|| Error::NotFound("alert", id.to_string()))?;
    Ok(Json(devices.house.named(organisation, alert).into()))
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

async fn import_readings(
    State(devices): State<Devices>,
    caller: Caller,
    Json(body): Json<BackfillBody>,
) -> Result<Response> {
    let (lines, empty) = backfill::lines(&body.table(), &devices.house.config)?;
    let fleet = devices.fleet(caller.organisation()).await?;
    let readings: Vec<(&str, &[u8])> =
        lines.iter().map(|line| (line.device.as_str(), line.payload.as_bytes())).collect();
    let refusals = fleet.take_all(&caller.principal, &readings).await?;
    let refused: Vec<RefusedView> = lines
        .iter()
        .zip(&refusals)
        .filter_map(|(line, refusal)| {
            Some(RefusedView { index: line.index, reason: refusal.as_ref()?.reason() })
        })
        .collect();
    let accepted = refusals.len() - refused.len();
    let answer = BackfilledView::new(accepted, empty, refused);
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
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
        EventsTopic::Health => (fleet.health.clone(), Kind::Health),
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
