/** The admin API's answers as the command line reads them: checked, since a daemon of another version may answer. */
import { z } from 'zod';

const text = z.string();
const ms = z.number();
const state = z.enum(['none', 'pending', 'opening', 'joining', 'enrolled', 'leaving', 'unenrollable']);

export const podSchema = z.looseObject({
  uid: text,
  name: text,
  namespace: text,
  state,
  reason: text.optional(),
  id: text.optional(),
  olderConnections: z.number(),
  sinceMs: ms,
});

const refusalSchema = z.looseObject({
  podUid: text,
  direction: z.enum(['outbound', 'inbound']),
  reason: text,
  text,
  detail: text.optional(),
  source: text,
  destination: text,
  count: z.number(),
  lastMs: ms,
});

const problemSchema = z.looseObject({ where: text, line: z.number().optional(), reason: text });

export const statusSchema = z.looseObject({
  node: text,
  version: text,
  startedMs: ms,
  notReady: z.array(text),
  uninstall: z.enum(['no', 'leaving', 'done']),
  pods: z.array(podSchema),
  refusals: z.array(refusalSchema),
  problems: z.array(problemSchema),
});

export const connectionsSchema = z.array(
  z.looseObject({
    connId: text,
    direction: z.enum(['outbound', 'inbound']),
    startMs: ms,
    srcAddr: text,
    srcWorkload: text.optional(),
    srcNamespace: text.optional(),
    srcIdentity: text.optional(),
    dstAddr: text,
    dstService: text.optional(),
    dstWorkload: text.optional(),
    dstNamespace: text.optional(),
    dstIdentity: text.optional(),
    security: z.enum(['mutual_tls', 'none']),
    bytesSent: z.number(),
    bytesReceived: z.number(),
  }),
);

export const certificatesSchema = z.array(
  z.looseObject({
    identity: text,
    state: z.enum(['waiting', 'ready', 'renewing', 'failed', 'expired']),
    serial: text.optional(),
    notAfterMs: ms.optional(),
    error: text.optional(),
  }),
);

export type StatusAnswer = z.infer<typeof statusSchema>;
export type PodAnswer = z.infer<typeof podSchema>;
export type ConnectionAnswer = z.infer<typeof connectionsSchema>[number];
export type CertificateAnswer = z.infer<typeof certificatesSchema>[number];
