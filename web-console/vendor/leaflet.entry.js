export { DomEvent, Map, canvas, circleMarker, divIcon, geoJSON, latLng, latLngBounds, marker, point, rectangle } from 'leaflet';
