/** Counts TLS connections that reach node 2: a SYN to a port on which nothing but TLS is spoken is one handshake. */
import { must } from '../support/run.ts';
import type { LabNode } from '../lab/kit/node.ts';

/** HBONE's port, and those of the HAProxy pair. */
const TLS_PORTS = '15008, 15443, 15444';

export class HandshakeCounter {
  readonly #netns: string;

  static async start(node: LabNode): Promise<HandshakeCounter> {
    const rules = `table inet bench {
      chain forward { type filter hook forward priority 0;
        tcp dport { ${TLS_PORTS} } tcp flags & (syn | ack) == syn counter
      }
    }\n`;
    const counter = new HandshakeCounter(node.netns);
    await must(['nsenter', `--net=${node.netns}`, 'nft', '-f', '-'], { input: rules });
    return counter;
  }

  private constructor(netns: string) {
    this.#netns = netns;
  }

  async read(): Promise<number> {
    const text = await must(['nsenter', `--net=${this.#netns}`, 'nft', 'list', 'table', 'inet', 'bench']);
    return Number(/counter packets (\d+)/.exec(text)?.[1] ?? Number.NaN);
  }
}
