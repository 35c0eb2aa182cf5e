/** What a view groups by, from the node tree that the system catalog keeps of its query. */
import { describe, expect, it } from 'vitest';
import { groupPositions } from '../src/timescaledb/continuous-aggregates.ts';

type Entry = { readonly name: string; readonly group: number; readonly junk?: boolean };

function entry({ name, group, junk = false }: Entry, index: number): string {
  return (
    `{TARGETENTRY :expr {VAR :varno 1 :varattno ${index + 1} :varnullingrels (b) :location -1} ` +
    `:resno ${index + 1} :resname ${name} :ressortgroupref ${group} :resorigtbl 0 :resorigcol 0 :resjunk ${junk}}`
  );
}

function query(entries: readonly Entry[], groups: readonly number[], tables = '<>'): string {
  const clauses = groups.map((group) => `{SORTGROUPCLAUSE :tleSortGroupRef ${group} :eqop 96}`);
  return (
    `{QUERY :commandType 1 :rtable ${tables} :targetList (${entries.map(entry).join(' ')}) :override 0 ` +
    `:groupClause ${clauses.length === 0 ? '<>' : `(${clauses.join(' ')})`} :groupDistinct false ` +
    `:havingQual {OPEXPR :opno 419 :args ({CONST :constvalue 4 [ 0 0 0 0 ]})} :stmt_len -1}`
  );
}

const bucket = { name: 'bucket', group: 1 };
const device = { name: 'device', group: 2 };
const total = { name: 'total', group: 0 };

describe('the columns that a query groups by', () => {
  it.each<[string, readonly Entry[], readonly number[], readonly number[]]>([
    ['one', [bucket, total], [1], [1]],
    ['two, in the order of the clause', [total, bucket, device], [2, 1], [3, 2]],
    ['none', [total], [], []],
    ['one that is not put out', [bucket, total, { ...device, junk: true }], [1, 2], []],
    ['a name with what the tree is made of', [{ name: 'a\\ \\{\\(\\:b\\}', group: 1 }], [1], [1]],
  ])('%s', (_, entries, groups, positions) => {
    expect(groupPositions(`(${query(entries, groups)})`)).toEqual(positions);
  });

  it('are those of the query itself, not of one within it', () => {
    const inner = query([total, bucket], [1]);
    const tables = `({RANGETBLENTRY :alias <> :eref {ALIAS :aliasname m :colnames ("we\\ ird" "x\\)")} :rtekind 1 :subquery ${inner} :lateral false})`;
    expect(groupPositions(`(${query([device, total, bucket], [2, 1], tables)})`)).toEqual([1, 3]);
  });
});
