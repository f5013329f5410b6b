import type { ComfyApi } from "@comfyorg/comfyui-frontend-types";

/** ComfyUI's page serves it at this path. */
export const api: ComfyApi;
