/** Config `certIssuer` and `certIssuerBundle`, read: which issuer of cert-manager, and where its roots are. */
import { MeshError } from '../errors.ts';

/** An issuer of cert-manager's own group; an Issuer is one of our own namespace. */
export interface IssuerRef {
  readonly kind: 'Issuer' | 'ClusterIssuer';
  readonly name: string;
}

/** A key of a Secret or a ConfigMap. */
export interface BundleRef {
  readonly kind: 'Secret' | 'ConfigMap';
  readonly namespace: string;
  readonly name: string;
  readonly key: string;
}

/** RFC 1123 subdomain, as names of these objects are; a key is a file's name. */
const NAME = /^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/;
const KEY = /^[A-Za-z0-9._-]{1,253}$/;

/** `ClusterIssuer/cluster-ca`. @throws MeshError CONFIG_INVALID. */
export function parseIssuer(text: string): IssuerRef {
  const [kind, name = '', ...rest] = text.split('/');
  if ((kind !== 'Issuer' && kind !== 'ClusterIssuer') || !NAME.test(name) || rest.length > 0)
    throw invalid('cert-issuer', text, 'Issuer/NAME or ClusterIssuer/NAME');
  return { kind, name };
}

/** `Secret/cert-manager/cluster-ca/ca.crt`. @throws MeshError CONFIG_INVALID. */
export function parseBundle(text: string): BundleRef {
  const [kind, namespace = '', name = '', key = '', ...rest] = text.split('/');
  const isWhole = NAME.test(namespace) && NAME.test(name) && KEY.test(key) && rest.length === 0;
  if ((kind !== 'Secret' && kind !== 'ConfigMap') || !isWhole)
    throw invalid('cert-issuer-bundle', text, 'Secret/NAMESPACE/NAME/KEY or ConfigMap/NAMESPACE/NAME/KEY');
  return { kind, namespace, name, key };
}

function invalid(flag: string, text: string, expected: string): MeshError {
  return new MeshError(
    'CONFIG_INVALID',
    `--${flag}: "${text}" is not ${expected}; --cert-source cert-manager needs it`,
  );
}
