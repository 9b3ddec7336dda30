// What the console uses of its vendored libraries; for editors and `tsc` only.

declare module 'preact' {
  export type VNode = object;
  export type Child = unknown;
  export interface Signal<T> {
    value: T;
    peek(): T;
    subscribe(run: (value: T) => void): () => void;
  }
  export interface ReadonlySignal<T> {
    readonly value: T;
    peek(): T;
  }
  export interface Ref<T> {
    current: T;
  }
  export function h<P>(type: ((props: P) => unknown) | string, props: P | null, ...children: unknown[]): VNode;
  export function render(node: unknown, into: Element): void;
  export const Fragment: unique symbol;
  export function html(strings: TemplateStringsArray, ...values: unknown[]): VNode;
  export function signal<T>(value: T): Signal<T>;
  export function computed<T>(run: () => T): ReadonlySignal<T>;
  export function effect(run: () => void | (() => void)): () => void;
  export function batch(run: () => void): void;
  export function untracked<T>(run: () => T): T;
  export function useSignal<T>(value: T): Signal<T>;
  export function useComputed<T>(run: () => T): ReadonlySignal<T>;
  export function useSignalEffect(run: () => void | (() => void)): void;
  export function useState<T>(first: T | (() => T)): [T, (next: T | ((before: T) => T)) => void];
  export function useRef<T>(first: T): Ref<T>;
  export function useEffect(run: () => void | (() => void), inputs?: readonly unknown[]): void;
  export function useLayoutEffect(run: () => void | (() => void), inputs?: readonly unknown[]): void;
  export function useMemo<T>(run: () => T, inputs: readonly unknown[]): T;
  export function useCallback<T>(run: T, inputs: readonly unknown[]): T;
  export function useId(): string;
}

declare module 'uplot' {
  export type Data = [number[], ...(number | null)[][]];
  export default class uPlot {
    constructor(options: object, data: Data, into: HTMLElement);
    setData(data: Data, resetScales?: boolean): void;
    setSize(size: { width: number; height: number }): void;
    valToPos(value: number, scale: string, canvasPixels?: boolean): number;
    destroy(): void;
    readonly bbox: { left: number; top: number; width: number; height: number };
    readonly ctx: CanvasRenderingContext2D;
    readonly cursor: { idx: number | null };
    readonly data: Data;
    readonly over: HTMLElement;
  }
}

declare module 'topojson' {
  export function feature(topology: object, object: object): object;
}

declare module 'leaflet' {
  export type LatLng = { lat: number; lng: number };
  export type Position = [number, number];
  export interface Layer {
    addTo(map: Map): this;
    remove(): this;
    on(kinds: string, run: (event: LeafletMouseEvent) => void): this;
  }
  export interface LeafletMouseEvent {
    latlng: LatLng;
    originalEvent: Event;
  }
  export interface Shape extends Layer {
    setStyle(style: object): this;
  }
  export interface Marker extends Layer {
    setLatLng(at: Position): this;
    getLatLng(): LatLng;
    getElement(): HTMLElement | undefined;
    setZIndexOffset(offset: number): this;
  }
  export interface Bounds {
    getWest(): number;
    getEast(): number;
    getNorth(): number;
    getSouth(): number;
    pad(share: number): Bounds;
    contains(at: Position): boolean;
    isValid(): boolean;
  }
  export class Map {
    constructor(into: HTMLElement, options: object);
    on(kinds: string, run: (event: LeafletMouseEvent) => void): this;
    off(kinds: string, run: (event: LeafletMouseEvent) => void): this;
    getZoom(): number;
    getBounds(): Bounds;
    getContainer(): HTMLElement;
    createPane(name: string): HTMLElement;
    getPane(name: string): HTMLElement | undefined;
    fitBounds(bounds: Bounds, options?: object): this;
    setView(at: Position, zoom: number, options?: object): this;
    panTo(at: Position, options?: object): this;
    panInside(at: Position, options?: object): this;
    zoomIn(): this;
    zoomOut(): this;
    invalidateSize(): this;
    latLngToContainerPoint(at: Position): { x: number; y: number };
    hasLayer(layer: Layer): boolean;
    remove(): void;
  }
  export const DomEvent: { stop(event: Event): void; disableClickPropagation(element: HTMLElement): void };
  export function canvas(options: object): object;
  export function divIcon(options: object): object;
  export function geoJSON(data: object, options?: object): Shape;
  export function latLngBounds(points: Position[]): Bounds;
  export function marker(at: Position, options?: object): Marker;
  export function rectangle(bounds: [Position, Position], options?: object): Shape;
}
